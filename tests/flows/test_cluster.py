"""Several processes that share the work, on a real Kafka: the same results as one; and how they end."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from features.transaction import Label, Transaction
from flows.local_kafka import LocalKafka
from tests.flows.running import SLOWLY, SMALL_BATCHES, Flow, running
from tests.flows.traffic import expected_features, feature_bits, history, label_message, transaction_message

N = 1500
Past = tuple[list[Transaction], list[Label]]


@pytest.fixture(scope="module")
def past() -> Past:
    """Two thirds of it are one account's at one merchant, which one process has to bear."""
    transactions, labels = history(N)
    chance = Random(3)
    heavy = {t.transaction_id for t in transactions if chance.random() < 0.6}
    return (
        [
            Transaction(t.transaction_id, "a1", "m1", *_rest(t)) if t.transaction_id in heavy else t
            for t in transactions
        ],
        [Label(x.transaction_id, "a1", "m1", *_said(x)) if x.transaction_id in heavy else x for x in labels],
    )


def _rest(t: Transaction) -> tuple[int, int, str | None, str | None, str | None]:
    return t.amount, t.timestamp, t.transaction_type, t.location, t.device_id


def _said(label: Label) -> tuple[int, bool, int]:
    return label.timestamp, label.is_fraud, label.labelled_at


@pytest.fixture
def flow(kafka: LocalKafka, tmp_path: Path, past: Past) -> Iterator[Flow]:
    with running(kafka.bootstrap_servers, tmp_path, SLOWLY) as flow:
        flow.with_recovery()
        flow.produce("transactions", map(transaction_message, past[0]), **SMALL_BATCHES)
        flow.produce("labels", map(label_message, past[1]))
        yield flow


def check(flow: Flow, past: Past) -> None:
    """Every transaction is there once, with the features of the batch; every alert too."""
    expected = expected_features(*past)
    scored, alerts = flow.read_rest("scored"), flow.read_rest("alerts")
    assert Counter(r.json["transaction_id"] for r in scored) == Counter(expected.keys())
    assert Counter(r.json["transaction_id"] for r in alerts) == Counter(
        r.json["transaction_id"] for r in scored if r.json["alert"]
    )
    for record in [*scored, *alerts]:
        assert feature_bits(record.json) == expected[record.json["transaction_id"]]
    assert flow.read_rest("rejected") == []


def test_three_processes_two_and_one_in_turn_give_what_one_gives(flow: Flow, past: Past) -> None:
    for processes, until in ((1, N // 4), (3, N // 2), (2, 3 * N // 4), (1, N)):
        flow.processes = processes
        flow.start()
        flow.read_all("scored", until)
        assert flow.stop(signal.SIGINT if processes == 1 else signal.SIGTERM) == 0
    check(flow, past)


def test_who_loses_a_peer_ends_at_once_and_nothing_is_lost(flow: Flow, past: Past) -> None:
    flow.processes = 2
    flow.start()
    flow.read_all("scored", N // 3)
    os.kill(flow.workers()[1], signal.SIGKILL)
    began = time.monotonic()
    assert flow.ended() == 1
    assert time.monotonic() - began < 5
    flow.start()
    flow.read_all("scored", N)
    assert flow.stop(signal.SIGINT) == 0
    check(flow, past)


def test_a_stop_that_reaches_one_process_only_ends_in_time(flow: Flow, past: Past) -> None:
    pace = flow.environment["KAFKA_FETCH_QUEUE_BACKOFF_MS"]
    flow.environment |= {"VIGIE_STOP_TIMEOUT": "1s", "KAFKA_FETCH_QUEUE_BACKOFF_MS": "500"}  # slower still
    flow.processes = 2
    for told in (0, 1):
        so_far = len(flow.read_rest("scored"))
        flow.start()
        flow.read_all("scored", so_far + 10)
        os.kill(flow.workers()[told], signal.SIGTERM)
        began = time.monotonic()
        flow.ended()  # cleanly where the one that reads was told, or else as after a crash
        assert time.monotonic() - began < 10
    flow.environment["KAFKA_FETCH_QUEUE_BACKOFF_MS"] = pace
    flow.start()
    flow.read_all("scored", N)
    assert flow.stop() == 0
    check(flow, past)


def test_a_zombie_that_comes_back_writes_nothing(flow: Flow, past: Past, tmp_path: Path) -> None:
    """A process that hangs is replaced, on a copy of its volume as another machine would have it, and then goes on."""
    flow.start()
    flow.read_all("scored", N // 3)
    assert flow._process is not None
    zombie, flow._process = flow._process, None
    zombie.send_signal(signal.SIGSTOP)
    shutil.copytree(flow.environment["BYTEWAX_RECOVERY_DIRECTORY"], tmp_path / "moved")
    flow.environment["BYTEWAX_RECOVERY_DIRECTORY"] = str(tmp_path / "moved")
    so_far = len(flow.read_rest("scored"))
    flow.start()
    flow.read_all("scored", so_far + 50)
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(30) == 1
    assert "another process has taken over" in flow.console_text()
    flow.read_all("scored", N)
    assert flow.stop() == 0
    check(flow, past)
