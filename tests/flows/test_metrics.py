"""Histograms and gauges as Prometheus reads them; and the counters in the log, now and then."""

from __future__ import annotations

import logging
import math
from functools import partial
from unittest.mock import patch

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from features.transaction import ERROR_CODES
from flows import metrics
from flows.histogram import WAITING, Histogram
from flows.metrics import LOG_EVERY, SCORES, SECONDS, Gauges, Progress


class Clock:
    """Stands where the time module stands in the module."""

    def __init__(self) -> None:
        self.seconds = 50.0

    def monotonic(self) -> float:
        return self.seconds


VALUES = st.one_of(st.floats(0, 2), st.sampled_from([*SCORES, 0.0]))


@given(batches=st.lists(st.lists(VALUES)))
def test_a_histogram_is_that_of_the_library(batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("score", "Scores", SCORES, ours)
    reference = prometheus_client.Histogram("score", "Scores", registry=theirs, buckets=SCORES)
    for batch in batches:
        histogram.observe(batch)
        for value in batch:
            reference.observe(value)
    (found,), (expected,) = ours.collect(), theirs.collect()
    samples = {(s.name, *s.labels.values()): s.value for s in expected.samples}
    assert {(s.name, *s.labels.values()): pytest.approx(s.value) for s in found.samples} == samples
    assert (found.name, found.type, found.documentation) == (expected.name, expected.type, expected.documentation)


def test_a_histogram_counts_by_itself_before_too_much_waits() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "Time", SECONDS, registry)
    for _ in range(3 * WAITING):
        histogram.observe([0.2, 0.02])
        assert len(histogram._waiting) < WAITING
    assert registry.get_sample_value("seconds_count") == 6 * WAITING
    assert registry.get_sample_value("seconds_bucket", {"le": "0.02"}) == 3 * WAITING
    assert registry.get_sample_value("seconds_sum") == pytest.approx(0.22 * 3 * WAITING)


def test_what_clocks_make_negative_is_no_time_at_all() -> None:
    registry = CollectorRegistry()
    Histogram("seconds", "Time", SECONDS, registry).observe([-5.0, 1.0])
    assert registry.get_sample_value("seconds_bucket", {"le": "0.005"}) == 1
    assert registry.get_sample_value("seconds_sum") == 1


def test_a_gauge_is_read_when_asked_for_and_is_not_there_before_there_is_something_to_read() -> None:
    registry = CollectorRegistry()
    gauges = Gauges("lag", "Behind", "topic", registry=registry)
    values: dict[str, float | None] = {"a": None, "b": 3}
    for name in values:
        gauges.read(partial(values.get, name), name)
    assert registry.get_sample_value("lag", {"topic": "a"}) is None
    assert registry.get_sample_value("lag", {"topic": "b"}) == 3
    values |= {"a": 0, "b": 4}
    assert registry.get_sample_value("lag", {"topic": "a"}) == 0
    assert registry.get_sample_value("lag", {"topic": "b"}) == 4
    gauges.read(lambda: math.pi, "b")
    assert registry.get_sample_value("lag", {"topic": "b"}) == math.pi


def test_what_can_be_counted_is_on_the_page_from_the_start_and_once() -> None:
    page = generate_latest().decode()
    for code in ERROR_CODES:
        assert f'vigie_rejected_total{{code="{code}"}} ' in page
    assert "_created" not in page.replace("model_created_timestamp", "")


def test_progress_is_one_line_in_half_a_minute_and_none_where_nothing_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with patch.object(metrics, "time", clock):
        progress = Progress()
        metrics.SCORED.inc(3)
        metrics.REJECTED.labels("not_json").inc()
        metrics.REJECTED.labels("too_late").inc(2)
        for _ in range(20):
            clock.seconds += LOG_EVERY / 10
            progress.tick()
        clock.seconds += LOG_EVERY * 3
        progress.tick()
        assert len(caplog.records) == 1
        metrics.DUPLICATES.inc()
        progress.tick()
        assert len(caplog.records) == 1
        progress.tick(final=True)
    first, last = (vars(record) for record in caplog.records)
    assert first["msg"] == last["msg"] == "so far"
    totals = ("read", "scored", "alerts", "rejected", "duplicates")
    assert [last[name] - first[name] for name in totals] == [0, 0, 0, 0, 1]


def test_progress_adds_up_all_codes_and_topics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = Progress()
    metrics.READ.labels("one").inc()
    progress.tick(final=True)
    metrics.READ.labels("one").inc(2)
    metrics.READ.labels("two").inc(3)
    metrics.REJECTED.labels("not_json").inc(4)
    metrics.REJECTED.labels("empty_id").inc(5)
    progress.tick(final=True)
    before, after = (vars(record) for record in caplog.records)
    assert after["read"] - before["read"] == 5
    assert after["rejected"] - before["rejected"] == 9
