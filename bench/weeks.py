"""The weeks that a comparison of models is made on, by the protocol of the Handbook.

    training week | label delay | test week

Source: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for Credit Card Fraud Detection:
Practical Handbook" (2022), chapters 3 and 5. There are four such test weeks in a row. What is chosen by looking at
scores is chosen on four validation weeks, the last of which ends where the first test week's training does: all of
its labels are known when that test begins. Chapter 3 shows the first test week alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

import polars as pl

from features.errors import InvalidHistory, InvalidSetting
from training.split import DAY, Period

WEEK: Final = 7 * DAY
MOST_WEEKS: Final = 4
MOST_DELAY: Final = 365 * DAY


@dataclass(frozen=True)
class Weeks:
    """When each test week begins, and each validation week; in order of time, midnights UTC."""

    test: tuple[datetime, ...]
    validation: tuple[datetime, ...]
    label_delay: timedelta

    def tested(self, start: datetime) -> Period:
        """The week that models are judged on."""
        return Period(start, start + WEEK)

    def trained(self, start: datetime) -> Period:
        """The week that the Handbook learns from before a test that begins at ``start``."""
        return Period(start - self.label_delay - WEEK, start - self.label_delay)


def weeks(history: pl.DataFrame, label_delay: timedelta, first_test: datetime | None = None) -> Weeks:
    """The weeks of a canonical history: its last four, or the four from ``first_test`` on; fewer where it is short.

    A week fits where two label delays and two weeks lie before it in the history: the training week, and before it the
    rehearsal from which champion and threshold are chosen. Raises ``InvalidSetting`` for a delay that is not of whole
    days, ``InvalidHistory`` where not one test week fits.
    """
    if not DAY <= label_delay <= MOST_DELAY or label_delay % DAY:
        raise InvalidSetting(
            f"the label delay is {label_delay / DAY:g} days; the protocol goes by whole days, from 1 to "
            f"{MOST_DELAY // DAY}"
        )
    first, last = history["timestamp"][0], history["timestamp"][-1]
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    begins, end = _midnight(first), _midnight(last) + DAY
    needed = 2 * label_delay + 2 * WEEK
    opening = first_test or end - MOST_WEEKS * WEEK
    test = [opening + number * WEEK for number in range(MOST_WEEKS)]
    test = [start for start in test if start >= begins + needed and start + WEEK <= end]
    if not test:
        raise InvalidHistory(
            f"the history goes from {begins:%Y-%m-%d} to {end - DAY:%Y-%m-%d}, too short for one test week: before it "
            f"must lie {needed / DAY:g} days (two label delays of {label_delay / DAY:g} days and two weeks); bring at "
            f"least {(needed + WEEK) / DAY:g} days, or lower --label-delay"
        )
    # The last validation week ends where the training week of the first test week does.
    newest = test[0] - label_delay - WEEK
    validation = [newest - number * WEEK for number in reversed(range(MOST_WEEKS))]
    return Weeks(tuple(test), tuple(start for start in validation if start >= begins + needed), label_delay)


def _midnight(instant: datetime) -> datetime:
    return datetime.combine(instant.astimezone(UTC).date(), time(), UTC)
