"""Stops, crashes and outages on a real Kafka: afterwards all is as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bytewax.dataflow import Dataflow, Operator
from bytewax.inputs import DynamicSource

from features.transaction import Label, Transaction
from flows import score, source, windows
from flows.local_kafka import LocalKafka, free_port
from tests.flows import bundles
from tests.flows.running import (
    SLOWLY,
    SMALL_BATCHES,
    Flow,
    Received,
    expected_features,
    history,
    label_message,
    received_features,
    running,
    transaction_message,
)

N = 3000


@pytest.fixture(scope="module")
def past() -> tuple[list[Transaction], list[Label]]:
    return history(N)


@pytest.fixture(scope="module")
def expected(past: tuple[list[Transaction], list[Label]]) -> dict[str, list[str]]:
    return expected_features(*past)


def prepare(flow: Flow, past: tuple[list[Transaction], list[Label]]) -> None:
    transactions, labels = past
    flow.with_recovery()
    flow.produce("transactions", map(transaction_message, transactions), **SMALL_BATCHES)
    flow.produce("labels", map(label_message, labels))
    flow.start()


def ids(records: list[Received]) -> Counter[str]:
    return Counter(record.json["transaction_id"] for record in records)


def test_sigterm_in_the_middle_leaves_no_trace(
    kafka: LocalKafka, tmp_path: Path, past: tuple[list[Transaction], list[Label]], expected: dict[str, list[str]]
) -> None:
    with running(kafka.bootstrap_servers, tmp_path, **SLOWLY) as flow:
        prepare(flow, past)
        flow.read_all("scored", 600)
        assert flow.stop() == 0
        assert 600 <= len(flow.read_rest("scored")) < N / 2
        flow.start()
        flow.read_all("scored", N // 2)
        assert flow.stop() == 0
        assert len(flow.read_rest("scored")) < N
        flow.start()
        flow.read_all("scored", N)
        assert flow.stop() == 0
        scored = flow.read_rest("scored")
        assert flow.read_rest("rejected") == []
    assert ids(scored) == Counter(expected.keys())
    for record in scored:
        assert received_features(record) == expected[record.json["transaction_id"]]


def test_kill_in_the_middle_repeats_some_and_loses_and_changes_none(
    kafka: LocalKafka, tmp_path: Path, past: tuple[list[Transaction], list[Label]], expected: dict[str, list[str]]
) -> None:
    with running(kafka.bootstrap_servers, tmp_path, **SLOWLY) as flow:
        prepare(flow, past)
        before = len(flow.read_all("scored", N // 2))
        flow.kill()
        flow.start()
        # Every id once; and then the end, which comes last because the order is that of time.
        last = Counter(list(expected)[-100:])
        while not ids(scored := flow.read_all("scored", 0)).keys() >= last.keys():
            flow.read_all("scored", len(scored) + 1)
        assert flow.stop() == 0
        scored = flow.read_rest("scored")
        alerts = flow.read_rest("alerts")
        assert flow.read_rest("rejected") == []
    times = ids(scored)
    assert times.keys() == expected.keys()
    repeated = len(scored) - N
    assert 0 <= repeated < before, "it began anew instead of where the last state was saved"
    for record in [*scored, *alerts]:
        assert received_features(record) == expected[record.json["transaction_id"]]
    assert ids(alerts).keys() == {r.json["transaction_id"] for r in scored if r.json["alert"]}


def test_an_outage_of_kafka_is_survived(
    tmp_path: Path, past: tuple[list[Transaction], list[Label]], expected: dict[str, list[str]]
) -> None:
    with (
        LocalKafka(free_port(), tmp_path / "kafka") as kafka,
        running(kafka.bootstrap_servers, tmp_path, **SLOWLY) as flow,
    ):
        prepare(flow, past)
        flow.read_all("scored", N // 3)
        kafka.kill()
        kafka.start()
        flow.read_all("scored", N)
        assert flow.stop() == 0
        scored = flow.read_rest("scored")
        alerts = flow.read_rest("alerts")
        assert flow.read_rest("rejected") == []
    # The producer numbers its records, so what it sent again for want of an answer is there once.
    assert ids(scored) == Counter(expected.keys())
    assert ids(alerts) == Counter(r.json["transaction_id"] for r in scored if r.json["alert"])
    for record in scored:
        assert received_features(record) == expected[record.json["transaction_id"]]


def test_names_under_which_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change here is a change of the storage schema, and Bytewax does not complain about all of them.

    It finds the state of a step by the ids of the flow and of the step: under another id the state is lost without a
    word, and a flow of another name reads all from the start. It finds a class by its module and name: under another
    one the start fails. So whoever changes these lists must also say how running flows get from here to there.
    """
    monkeypatch.setenv("VIGIE_MODEL", str(bundles.make(tmp_path)))
    monkeypatch.setattr(score.logs, "set_up", lambda *_: None)
    monkeypatch.setattr(score.stop, "on_sigterm", lambda: None)
    monkeypatch.setattr(score.topics, "partitions", lambda *_: {})
    flow = score.flow()
    assert flow.flow_id == "vigie"
    assert sorted(stateful_ids(flow)) == [
        "vigie.account_windows_v1",
        "vigie.alerts_v1",
        "vigie.gather_v1",
        "vigie.merchant_windows_v1",
        "vigie.read_v1",
        "vigie.rejected_v1",
        "vigie.scored_v1",
    ]
    saved = {f"{kind.__module__}.{kind.__qualname__}": kind._fields for kind in (source.Positions, windows.Saved)}
    assert saved == {
        "flows.source.Positions": ("offsets", "leads", "watermark"),
        "flows.windows.Saved": ("key", "state", "recent"),
    }


def stateful_ids(step: Dataflow | Operator) -> Iterator[str]:
    """The ids of all steps that keep state, those within other steps too."""
    for inner in step.substeps:
        if type(inner).__name__ in ("input", "stateful_batch", "output"):
            if not isinstance(getattr(inner, "source", None), DynamicSource):
                yield inner.step_id
        else:
            yield from stateful_ids(inner)
