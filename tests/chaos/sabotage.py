"""Parts of the flow that prevent violations, switched off: the verifier must then report some."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, Protocol

from tests.chaos import epochs
from tests.chaos.chaos import Act, Chaos, Report, Step

NO_SUPPRESSION: Final = "import flows.tail as t; read = t.read; t.read = lambda *place: (read(*place)[0], frozenset())"
NO_HYGIENE: Final = "import flows.store as s; s._CUT_SHORT = 'DELETE FROM snaps WHERE {:d} < 0'"
# As on a busy machine: ten records a second.
SLOW: Final = (
    "import time, flows.source as r; r.BATCH = 1; next_batch = r.Reader.next_batch; "
    "r.Reader.next_batch = lambda self: (time.sleep(0.1), next_batch(self))[1]"
)


class Scenario(Protocol):
    """Chaos that shows violations where ``sabotaged``, and none else."""

    def __call__(self, chaos: Chaos, *, sabotaged: bool) -> Report: ...


def suppression(chaos: Chaos, *, sabotaged: bool) -> Report:
    """What an unfinished epoch had written is not read back at the start: it is written again."""
    chaos.cluster.changes = NO_SUPPRESSION if sabotaged else ""
    return chaos.run([Step(Act.KILL_ALL, 1.5)])


def hygiene(chaos: Chaos, *, sabotaged: bool) -> Report:
    """What an unfinished epoch had saved is not removed at the start.

    Two crashes: the first while an epoch closes, when the states of the rejected topic's writers are saved already; the
    second after the same epoch has been done again, by a run that was slower and got less far. Whose state the second
    run did not touch is then that of the first run, which knows of records that are to be read again. (Of transactions
    it knows them as duplicates, which hides the mistake; rejections have no such second line.)
    """
    cluster = chaos.cluster
    changes = NO_HYGIENE if sabotaged else "pass"

    def strikes() -> Iterator[Step]:
        cluster.changes = changes
        yield Step(Act.STOP, 3.0)  # by now there is a store
        with epochs.of(cluster.recovery) as seen:
            assert epochs.freeze_in_close(cluster, seen, "rejected_v1"), "no epoch was met at its close"
            epoch = seen.done()
            cluster.changes = f"{changes}; {SLOW}"
            yield Step(Act.KILL_ALL, 0.0, recovered=False)
            cluster.changes = changes
            give_up = time.monotonic() + 60
            while seen.done() <= epoch:
                assert time.monotonic() < give_up, f"epoch {epoch} is not done again\n{cluster.console_text()}"
                time.sleep(0.01)
        yield Step(Act.KILL_ALL, 0.0, recovered=False)

    return chaos.run(strikes())


SCENARIOS: Final[dict[str, Scenario]] = {"hygiene": hygiene, "suppression": suppression}
