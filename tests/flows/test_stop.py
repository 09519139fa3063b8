"""Processes of a cluster end when they are told to, whatever the others do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.local_kafka import LocalKafka
from tests.chaos import epochs
from tests.chaos.cluster import Cluster


@pytest.fixture
def cluster(kafka: LocalKafka, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(kafka.bootstrap_servers, tmp_path)
    yield cluster
    cluster.close()


def await_that(cluster: Cluster, done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not done():
        assert time.monotonic() < give_up, cluster.console_text()
        time.sleep(0.05)


def leave_one(cluster: Cluster) -> None:
    """Of two processes the first one is left, and waits for the second."""
    cluster.start(2)
    other = cluster.processes.pop()
    other.kill()
    other.wait()
    await_that(cluster, lambda: "scoring" in cluster.console_text())
    time.sleep(0.5)


def test_who_waits_for_peers_ends_at_a_signal(cluster: Cluster) -> None:
    leave_one(cluster)
    cluster.send(signal.SIGTERM)
    assert cluster.wait(10) == [128 + signal.SIGTERM]


def test_who_waits_for_peers_in_vain_gives_up(cluster: Cluster) -> None:
    cluster.changes = "import flows.stop; flows.stop.CONNECTING = 2.0"
    leave_one(cluster)
    assert cluster.wait(20) == [1]
    assert "the other processes are not there after 2 seconds" in cluster.console_text()


def test_a_stop_that_one_process_hears_alone_ends_all(cluster: Cluster) -> None:
    cluster.changes = "import flows.stop; flows.stop.GRACE = 1.0"
    cluster.start(2)
    await_that(cluster, lambda: cluster.console_text().count("scoring") == 2)
    with epochs.of(cluster.recovery) as seen:
        await_that(cluster, lambda: seen.done() > 1)
    cluster.processes[1].send_signal(signal.SIGTERM)  # the source is the first one's
    assert all(cluster.wait(20))
    assert "send the signal to all processes" in cluster.console_text()
