"""The keyed steps together in a real dataflow, and the names under which their state is kept."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow, Operator
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink, run_main
from prometheus_client import REGISTRY

from features.definitions import FEATURES, Aggregate, Entity, reach
from features.transaction import Label, Transaction
from flows import logs, score, sink, source, start, stop, topics, windows
from flows.records import Arrival, Candidate, Rejection, Tick
from flows.settings import Settings
from tests.features.live import bits
from tests.features.oracle import Record
from tests.flows import bundles
from tests.flows.traffic import DAY, arrivals, expected_features, history, pay

SETTINGS = Settings.from_environment({})


def duplicates() -> float:
    return REGISTRY.get_sample_value("vigie_duplicates_total") or 0.0


def dropped(entity: Entity) -> float:
    return REGISTRY.get_sample_value("vigie_idle_states_dropped_total", {"entity": entity}) or 0.0


Item = Arrival | Rejection | Tick


class FiniteSource(FixedPartitionedSource[Item, None]):
    """Gives batches, then ticks until ``done()`` holds."""

    def __init__(self, batches: Iterable[list[Item]], done: Callable[[], bool]) -> None:
        self.batches = iter(batches)
        self.done = done

    def list_parts(self) -> list[str]:
        return ["only"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> FinitePartition:  # noqa: ARG002
        return FinitePartition(self)


class FinitePartition(StatefulSourcePartition[Item, None]):
    def __init__(self, source: FiniteSource) -> None:
        self._source = source
        self._watermark = 0
        self._give_up = time.monotonic() + 20

    def next_batch(self) -> Iterable[Item]:
        batch = next(self._source.batches, None)
        if batch is not None:
            self._watermark = max([self._watermark, *(i.watermark for i in batch if isinstance(i, Arrival))])
            return batch
        if self._source.done() or time.monotonic() > self._give_up:
            raise StopIteration
        return [Tick(self._watermark)]

    def snapshot(self) -> None:
        return None


@pytest.fixture
def run() -> Callable[..., tuple[list[Candidate], list[Rejection]]]:
    """Runs arrivals through the real steps in a real dataflow."""

    def through(
        batches: Iterable[list[Item]], done: Callable[[], bool] = lambda: True
    ) -> tuple[list[Candidate], list[Rejection]]:
        candidates: list[Candidate] = []
        rejections: list[Rejection] = []
        flow = Dataflow("windows")
        read = op.input("read", flow, FiniteSource(batches, done))
        with_them, rejected = score.with_features(read, FEATURES, SETTINGS)
        op.output("candidates", with_them, TestingSink(candidates))
        op.output("rejections", rejected, TestingSink(rejections))
        run_main(flow, epoch_interval=timedelta(milliseconds=20))  # type: ignore[no-untyped-call]
        return candidates, rejections

    return through


def chunks(items: Iterable[Item], rng: random.Random) -> Iterator[list[Item]]:
    """Batches of all sizes."""
    waiting: list[Item] = list(items)
    while waiting:
        size = rng.choice([1, 2, 7, 100, 1000])
        yield waiting[:size]
        del waiting[:size]


def test_the_dataflow_gives_the_features_of_the_batch_once_each(
    run: Callable[..., tuple[list[Candidate], list[Rejection]]],
) -> None:
    rng = random.Random(5)
    transactions, labels = history(1500, days=2 * reach(FEATURES).days)  # so that much is forgotten
    # A label that becomes known at the instant of a transaction comes before it.
    records: list[Record] = [*labels, *transactions]
    records.sort(key=lambda record: record.labelled_at if isinstance(record, Label) else record.timestamp)
    for place in sorted(rng.sample(range(10, len(records)), 60), reverse=True):
        repeated = records[place - rng.randrange(1, 10)]
        records.insert(place, repeated)
    repeats = sum(n - 1 for n in Counter(r for r in records if isinstance(r, Transaction)).values())
    too_late = pay("too-late", account="a1", day=-1)
    unreadable = Rejection(None, b"?", {"error_code": "not_json"})
    before = duplicates()
    items: list[Item] = [*arrivals([*records, too_late], timedelta(days=1)), unreadable]
    candidates, rejections = run(chunks(items, rng))

    expected = expected_features(transactions, labels)
    assert Counter(c.transaction for c in candidates) == Counter(transactions)
    for candidate in candidates:
        assert bits(np.array(candidate.features, np.float32)) == expected[candidate.transaction.transaction_id]
    assert sorted(r.headers["error_code"] for r in rejections) == ["not_json", "too_late"]
    assert duplicates() - before == repeats
    counted = [i for i, f in enumerate(FEATURES) if f.aggregate is Aggregate.FRAUD_COUNT]
    fraud_counts = [c.features[i] for i in counted for c in candidates]
    assert max(fraud_counts) >= 2, "no label has reached its merchant"


def test_the_dataflow_drops_keys_that_nothing_can_reach(
    run: Callable[..., tuple[list[Candidate], list[Rejection]]],
) -> None:
    many = [pay(f"t{i}", account=f"a{i}", merchant=f"m{i % 20}", day=i / 1000) for i in range(300)]
    labelled = Label("t5", "a5", "m5", many[5].timestamp, is_fraud=True, labelled_at=many[5].timestamp + DAY)
    # The watermark lies a day behind the newest.
    day = reach(FEATURES).days + 3
    later = [pay("later", account="b", merchant="n", day=day), pay("even-later", account="b", merchant="n", day=day)]
    before = {entity: dropped(entity) for entity in (Entity.ACCOUNT, Entity.MERCHANT)}

    def gone() -> bool:
        return dropped(Entity.ACCOUNT) - before[Entity.ACCOUNT] >= 300 and (
            dropped(Entity.MERCHANT) - before[Entity.MERCHANT] >= 20
        )

    in_order = arrivals([*many, labelled, *later], timedelta(days=1))
    candidates, _ = run(chunks(in_order, random.Random(1)), gone)
    assert len(candidates) == 302
    assert dropped(Entity.ACCOUNT) - before[Entity.ACCOUNT] == 300
    assert dropped(Entity.MERCHANT) - before[Entity.MERCHANT] == 20


def test_names_under_which_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change here is a change of the storage schema, and Bytewax does not complain about all of them.

    It finds the state of a step by the ids of the flow and of the step: under another id the state is lost without a
    word, and a flow of another name reads all from the start. It finds a class by its module and name: under another
    one the start fails. So whoever changes these lists must also say how running flows get from here to there.
    """
    monkeypatch.setenv("VIGIE_MODEL", str(bundles.make(tmp_path)))
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    monkeypatch.setattr(stop, "on_signals", lambda *_: None)
    monkeypatch.setattr(topics, "partitions", lambda *_: {})
    monkeypatch.setattr(start, "open_outbox", lambda *_: None)
    flow = score.flow()
    assert flow.flow_id == "vigie"
    assert sorted(stateful_ids(flow)) == [
        "vigie.account_windows_v1",
        "vigie.gather_v1",
        "vigie.merchant_windows_v1",
        "vigie.read_v1",
        "vigie.rejected_v1",
        "vigie.scored_v1",
    ]
    saved = {
        f"{kind.__module__}.{kind.__qualname__}": kind._fields
        for kind in (source.Positions, windows.Saved, sink.Written)
    }
    assert saved == {
        "flows.source.Positions": ("offsets", "leads", "watermark", "taken_at", "ahead"),
        "flows.windows.Saved": ("key", "state", "recent", "newest"),
        "flows.sink.Written": ("until", "repeats"),
    }


def stateful_ids(step: Dataflow | Operator) -> Iterator[str]:
    """The ids of all steps that keep state, those within other steps too."""
    for inner in step.substeps:
        if type(inner).__name__ in ("input", "stateful_batch", "output"):
            yield inner.step_id
        else:
            yield from stateful_ids(inner)
