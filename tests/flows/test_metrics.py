"""The counters in the log: now and then, when something has happened."""

from __future__ import annotations

import logging
from unittest.mock import patch

import pytest

from flows import metrics
from flows.metrics import LOG_EVERY, Progress


class Clock:
    """Stands where the time module stands in the module."""

    def __init__(self) -> None:
        self.seconds = 50.0

    def monotonic(self) -> float:
        return self.seconds


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
