"""Stops, crashes and outages on a real Kafka: afterwards all is as if nothing had happened."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from features.transaction import Label, Transaction
from flows.local_kafka import LocalKafka, free_port
from tests.flows.running import SLOW_READER, SMALL_BATCHES, SMALL_FETCHES, Flow, Received, limit_size, running
from tests.flows.traffic import Sent, expected_features, feature_bits, history, label_message, transaction_message

N = 2400


@pytest.fixture(scope="module")
def past() -> tuple[list[Transaction], list[Label]]:
    return history(N)


@pytest.fixture(scope="module")
def expected(past: tuple[list[Transaction], list[Label]]) -> dict[str, list[str]]:
    return expected_features(*past)


def prepare(flow: Flow, past: tuple[list[Transaction], list[Label]]) -> None:
    transactions, labels = past
    flow.produce("transactions", map(transaction_message, transactions), **SMALL_BATCHES)
    flow.produce("labels", map(label_message, labels))
    flow.start()


def ids(records: list[Received]) -> Counter[str]:
    return Counter(record.json["transaction_id"] for record in records)


def test_whatever_dies_when_everything_is_there_once(
    kafka: LocalKafka, tmp_path: Path, past: tuple[list[Transaction], list[Label]], expected: dict[str, list[str]]
) -> None:
    """Crash after crash, some before a state was ever saved, some while the flow is still starting."""
    chance = Random(7)
    with running(kafka.bootstrap_servers, tmp_path, SMALL_FETCHES) as flow:
        flow.with_recovery()
        flow.changes = SLOW_READER
        flow.produce("transactions", [Sent("k", b"garbage %d" % n) for n in range(20)])
        prepare(flow, past)
        for crash in range(3):
            if crash % 3 == 2:
                time.sleep(chance.uniform(0.5, 2.5))
            else:
                so_far = len(flow.read_all("scored", 1))
                flow.read_all("scored", min(N, so_far + chance.randrange(1, N // 8)))
            flow.kill()
            flow.start()
        flow.read_all("scored", N)
        assert flow.stop() == 0
        scored, alerts, rejected = (flow.read_rest(topic) for topic in ("scored", "alerts", "rejected"))
    assert ids(scored) == Counter(expected.keys())
    assert ids(alerts) == Counter(r.json["transaction_id"] for r in scored if r.json["alert"])
    assert Counter(r.value for r in rejected) == Counter(b"garbage %d" % n for n in range(20))
    for record in [*scored, *alerts]:
        assert feature_bits(record.json) == expected[record.json["transaction_id"]]


def test_an_outage_of_kafka_is_survived(
    tmp_path: Path, past: tuple[list[Transaction], list[Label]], expected: dict[str, list[str]]
) -> None:
    with (
        LocalKafka(free_port(), tmp_path / "kafka") as kafka,
        # No epoch ends in the meantime, for that would wait for Kafka: so the reader goes on asking in vain.
        running(kafka.bootstrap_servers, tmp_path, {"BYTEWAX_SNAPSHOT_INTERVAL": "60", **SMALL_FETCHES}) as flow,
    ):
        # Shorter than the broker needs to start, as ten seconds are shorter than most outages.
        flow.changes = f"import flows.lanes; flows.lanes.PATIENCE = 4.0; {SLOW_READER}"
        prepare(flow, past)
        flow.read_all("scored", N // 3)
        kafka.kill()
        kafka.start()
        flow.read_all("scored", N)
        assert flow.stop() == 0
        scored = flow.read_rest("scored")
        alerts = flow.read_rest("alerts")
        assert flow.read_rest("rejected") == []
        assert "delivers nothing" not in flow.console_text()
    # The producer numbers its records, so what it sent again for want of an answer is there once.
    assert ids(scored) == Counter(expected.keys())
    assert ids(alerts) == Counter(r.json["transaction_id"] for r in scored if r.json["alert"])
    for record in scored:
        assert feature_bits(record.json) == expected[record.json["transaction_id"]]


def test_a_failed_delivery_stops_the_flow_loudly_and_loses_nothing(
    kafka: LocalKafka, tmp_path: Path, past: tuple[list[Transaction], list[Label]], expected: dict[str, list[str]]
) -> None:
    with running(kafka.bootstrap_servers, tmp_path, SMALL_FETCHES) as flow:
        flow.with_recovery()
        flow.changes = SLOW_READER
        prepare(flow, past)
        flow.read_all("scored", 100)
        limit_size(kafka.bootstrap_servers, flow.topics["scored"], 100)
        assert flow.ended() == 1
        assert f"{flow.topics['scored']}[" in flow.console_text()
        assert "did not take a record" in flow.console_text()
        limit_size(kafka.bootstrap_servers, flow.topics["scored"], 1_000_000)
        flow.start()
        while ids(scored := flow.read_all("scored", 0)).keys() != expected.keys():
            flow.read_all("scored", len(scored) + 1)
        assert flow.stop() == 0
        for record in flow.read_rest("scored"):
            assert feature_bits(record.json) == expected[record.json["transaction_id"]]
