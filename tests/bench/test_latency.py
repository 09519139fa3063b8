"""Latencies from what was intended and what came, and their percentiles."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from bench.arrivals import loaded
from bench.latency import PERCENTILES, child, curve, latencies, percentiles
from bench.schedule import Schedule
from bench.traffic import PARTITIONS
from features.errors import ContenderFailure
from flows.local_kafka import LocalKafka


def test_latency_is_from_the_intended_instant() -> None:
    schedule = Schedule(10.0, 100.0, 5)
    came = {7 + nth: schedule.due(nth) + 0.001 * (nth + 1) for nth in range(5)}
    assert latencies(schedule, 7, came, 0) == pytest.approx([1, 2, 3, 4, 5])
    assert latencies(schedule, 7, came, 0.02) == pytest.approx([3, 4, 5]), "the first 20 ms are not counted"


def test_a_score_that_never_came_is_no_small_latency() -> None:
    schedule = Schedule(10.0, 100.0, 5)
    with pytest.raises(ContenderFailure, match=r"2 of 5 scores never came, first t1"):
        latencies(schedule, 0, {0: 10.1, 2: 10.1, 4: 10.1}, 0)


def test_percentiles_are_values_that_occurred() -> None:
    values = np.arange(1.0, 100_001)
    np.random.default_rng(1).shuffle(values)
    assert percentiles(values) == pytest.approx([50_000, 90_000, 99_000, 99_900, 99_990], abs=1.1)
    assert {value for value in percentiles(values) if value} <= set(values.tolist())


@pytest.mark.parametrize(("samples", "given"), [(100_000, 5), (99_999, 4), (10_000, 4), (1000, 3), (100, 2), (0, 0)])
def test_a_percentile_needs_values_beyond_it(samples: int, given: int) -> None:
    found = percentiles(np.ones(samples))
    assert [value is not None for value in found] == [True] * given + [False] * (len(PERCENTILES) - given)


def test_the_curve_goes_from_the_fastest_to_the_slowest() -> None:
    points = curve(np.arange(1.0, 1001))
    assert points[0] == (1.0, 1.0)
    assert points[-1] == pytest.approx((1000.0, 1000.0), abs=1.1)
    assert points == sorted(points)
    assert curve(np.empty(0)) == []


def test_an_injector_ends_with_the_benchmark_that_is_interrupted() -> None:
    words = ["localhost:1", "t", "1", "0", "1", "1"]
    with pytest.raises(KeyboardInterrupt), child("bench.schedule", words) as injector:
        raise KeyboardInterrupt
    assert injector.poll() is not None


@contextmanager
def reading(kafka: LocalKafka, wanted: int, file: Path, *topics: str) -> Iterator[subprocess.Popen[str]]:
    """The reader as a process, which reads already."""
    with child("bench.arrivals", [kafka.bootstrap_servers, str(wanted), str(file), "20", *topics]) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        yield reader


def test_a_reader_waits_for_the_alerts_that_scores_announce(
    kafka: LocalKafka, topics: Callable[[str, int], str], tmp_path: Path
) -> None:
    scored, alerts, file = topics("scored", PARTITIONS), topics("alerts", PARTITIONS), tmp_path / "arrivals.npy"
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    with reading(kafka, 2, file, scored, alerts) as reader:
        producer.produce(scored, b'{"transaction_id":"t0","score":0.5,"alert":false}', partition=0)
        producer.produce(scored, b'{"transaction_id":"t1","score":0.9,"alert":true}', partition=1)
        assert producer.flush(30) == 0
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(1)
        producer.produce(alerts, b'{"transaction_id":"t1","score":0.9,"alert":true}', partition=2)
        assert producer.flush(30) == 0
        assert reader.wait(20) == 0
    came = loaded(file)
    assert came.scores.keys() == {0, 1}
    assert came.alerts.keys() == {1}
    assert came.alerts[1] - came.scores[1] > 0.9


def test_an_alert_that_comes_before_its_score_is_not_taken_for_that(
    kafka: LocalKafka, topics: Callable[[str, int], str], tmp_path: Path
) -> None:
    scored, alerts, file = topics("scored", PARTITIONS), topics("alerts", PARTITIONS), tmp_path / "arrivals.npy"
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    with reading(kafka, 1, file, scored, alerts) as reader:
        for topic in (alerts, scored):
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(0.5)
            producer.produce(topic, b'{"transaction_id":"t0","score":0.9,"alert":true}', partition=0)
            assert producer.flush(30) == 0
        assert reader.wait(20) == 0
    came = loaded(file)
    assert came.scores.keys() == came.alerts.keys() == {0}
