"""The keyed steps together in a real dataflow, and the names under which state is kept."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow, Operator
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink, cluster_main

from features.definitions import FEATURES, Aggregate, reach
from features.transaction import Label, Transaction
from flows import journal, logs, score, sink, source, start, stop, topics
from flows.intake import Intake, Reading
from flows.journal import NOTHING
from flows.records import Candidates, Rejection
from flows.settings import Settings
from flows.source import Item
from tests.features.live import bits
from tests.features.oracle import Record
from tests.flows import bundles
from tests.flows.test_windows import duplicates, scored
from tests.flows.traffic import Feed, expected_features, history, pay

SETTINGS = Settings.from_environment({})


class FiniteSource(FixedPartitionedSource[Item, None]):
    """Gives batches."""

    def __init__(self, batches: Iterable[Sequence[Item]]) -> None:
        self.batches = iter(batches)

    def list_parts(self) -> list[str]:
        return ["only"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> FinitePartition:  # noqa: ARG002
        return FinitePartition(self.batches)


class FinitePartition(StatefulSourcePartition[Item, None]):
    def __init__(self, batches: Iterator[Sequence[Item]]) -> None:
        self._batches = batches

    def next_batch(self) -> Iterable[Item]:
        return next(self._batches)

    def snapshot(self) -> None:
        return None


def batches(records: Iterable[Record | Rejection], workers: int, rng: random.Random) -> Iterator[Sequence[Item]]:
    """What the intake makes of records that come in batches of all sizes."""
    feed, intake = Feed(SETTINGS.allowed_lateness), Intake(SETTINGS, workers, None, NOTHING, 0)
    waiting = list(records)
    while waiting:
        size = rng.choice([1, 2, 7, 100, 1000])
        watermark = feed.watermark
        readings: list[Reading] = [feed.reading(record)[0] for record in waiting[:size]]
        del waiting[:size]
        yield intake.take(readings, watermark)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_dataflow_gives_the_features_of_the_batch_once_each(workers: int) -> None:
    rng = random.Random(5)
    transactions, labels = history(1500, days=2 * reach(FEATURES).days)  # so that much is forgotten
    # A label that becomes known at the instant of a transaction comes before it.
    records: list[Record] = [*labels, *transactions]
    records.sort(key=lambda record: record.labelled_at if isinstance(record, Label) else record.timestamp)
    for place in sorted(rng.sample(range(10, len(records)), 60), reverse=True):
        records.insert(place, records[place - rng.randrange(1, 10)])
    repeats = sum(n - 1 for n in Counter(r for r in records if isinstance(r, Transaction)).values())
    others: list[Record | Rejection] = [
        pay("too-late", account="a1", day=-1),
        Rejection(None, b"?", {"error_code": "not_json"}),
    ]
    before = duplicates()
    candidates: list[Candidates] = []
    rejections: list[Rejection] = []
    flow = Dataflow("windows")
    read = op.input("read", flow, FiniteSource(batches([*records, *others], workers, rng)))
    op.output("collect", score.with_features(read, FEATURES), TestingSink(candidates))
    op.output("refused", score.only(read, Rejection), TestingSink(rejections))
    interval = timedelta(milliseconds=20)
    cluster_main(flow, [], 0, epoch_interval=interval, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]

    expected = expected_features(transactions, labels)
    found = [each for some in candidates for each in scored(some)]
    assert Counter(transaction for transaction, _ in found) == Counter(transactions)
    for transaction, row in found:
        assert bits(row) == expected[transaction.transaction_id]
    assert sorted(r.headers["error_code"] for r in rejections) == ["not_json", "too_late"]
    assert duplicates() - before == repeats
    counted = [i for i, f in enumerate(FEATURES) if f.aggregate is Aggregate.FRAUD_COUNT]
    assert max(row[i] for i in counted for _, row in found) >= 2, "no label has reached its merchant"
    of_accounts: dict[str, list[int]] = {}
    for transaction, _ in found:
        of_accounts.setdefault(transaction.account_id, []).append(transaction.timestamp)
    assert all(instants == sorted(instants) for instants in of_accounts.values()), "an account's scores keep its order"


def test_names_under_which_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change here is a change of the storage schema, and Bytewax does not complain about all of them.

    It finds the state of a step by the ids of the flow and of the step: under another id the state is lost without a
    word, and a flow of another name reads all from the start. It finds a class by its module and name: under another
    one the start fails. So whoever changes these lists must also say how running flows get from here to there.
    """
    monkeypatch.setenv("VIGIE_MODEL", str(bundles.make(tmp_path)))
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    monkeypatch.setattr(stop, "on_signals", lambda *_: None)
    monkeypatch.setattr(stop, "unless_connected", lambda _: None)  # no engine will be at work here
    monkeypatch.setattr(topics, "partitions", lambda *_: {})
    monkeypatch.setattr(start, "open_outbox", lambda *_: SimpleNamespace(busy=lambda: False))
    flow = score.flow()
    assert flow.flow_id == "vigie"
    assert sorted(stateful_ids(flow)) == [
        "vigie.account_windows_v2",
        "vigie.merchant_windows_v2",
        "vigie.pulse_v1",  # keeps nothing, so it may come and go
        "vigie.read_v2",
        "vigie.rejected_v1",
        "vigie.scored_v1",
    ]
    saved = {
        f"{kind.__module__}.{kind.__qualname__}": kind._fields
        for kind in (source.Positions, journal.Position, sink.Written)
    }
    assert saved == {
        "flows.source.Positions": ("offsets", "leads", "watermark", "taken_at", "ahead", "journal"),
        "flows.journal.Position": ("first", "last", "length"),
        "flows.sink.Written": ("until", "repeats"),
    }


def stateful_ids(step: Dataflow | Operator) -> Iterator[str]:
    """The ids of all steps that keep state, those within other steps too."""
    for inner in step.substeps:
        if type(inner).__name__ in ("input", "stateful_batch", "output"):
            yield inner.step_id
        else:
            yield from stateful_ids(inner)
