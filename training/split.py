"""Which days of a history train, validate and test a model, with the label delay respected.

Everything hangs on one instant, ``as_of``: the model is made of what was known then, and tested on the days after it.

    warm-up | rehearsal | label delay | validation | label delay | as_of | test
            |---------------- training ------------|

The published model learns from ``train``: the days before ``as_of`` whose labels are at least the label delay old. The
rehearsal is the same training one step earlier, so that calibration, threshold and champion are chosen on
``validation`` days that its models have not seen, and that lie as far from their training as live days will lie from
the published model's. The warm-up is as long as the windows reach back (at most a third of the days before the
validation): until then they are not full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from features.errors import InvalidHistory, InvalidSetting

DAY: Final = timedelta(days=1)
LONGEST_TRAINING: Final = 90 * DAY  # older days taught the models nothing more, and patterns of fraud age

FEWEST_DAYS: Final = 2  # to rehearse on, with those that fill the windows
MOST_DAYS: Final = 3_650

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Period:
    """From ``start`` (included) to ``end`` (excluded), UTC."""

    start: datetime
    end: datetime

    def rows(self, history: pl.DataFrame) -> Mask:
        """Which rows of the canonical frame lie in it, bool [rows]."""
        inside = pl.col("timestamp").is_between(self.start, self.end, closed="left")
        return history.select(inside).to_series().to_numpy(writable=True)

    def __str__(self) -> str:
        if self.start.time() == self.end.time() == datetime.min.time():
            last = self.end - DAY
            days = round((self.end - self.start) / DAY)
            return f"{self.start:%Y-%m-%d} to {last:%Y-%m-%d} ({days} day{'s' * (days != 1)})"
        return f"{self.start:%Y-%m-%d %H:%M:%S} to {self.end:%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True)
class Split:
    """The days of one training; ``test`` is None where no transactions follow ``as_of`` in the days to test on."""

    first: datetime
    rehearsal: Period
    validation: Period
    train: Period
    as_of: datetime
    test: Period | None
    label_delay: timedelta

    @property
    def held_out(self) -> Period:
        """The days that the figures are of: the test days, or the validation days where there are none."""
        return self.test or self.validation

    def describe(self) -> list[tuple[str, str]]:
        """Rows of (what, dates) in the order of time; all dates are UTC, the last day of a period included."""
        start = min(self.rehearsal.start, self.train.start)
        early = (
            [("Before training: only fills the windows", str(Period(self.first, start)))] if start > self.first else []
        )
        test = (
            str(self.test)
            if self.test
            else "none: no transactions in the days from then on, so figures are of the validation days"
        )
        return [
            *early,
            ("Rehearsal: the same training, one step earlier", str(self.rehearsal)),
            ("Validation: calibration, threshold and champion", str(self.validation)),
            ("Training of the published model", str(self.train)),
            ("Label delay: labels not known yet, not used", str(Period(self.train.end, self.as_of))),
            ("Model made of what was known at", f"{self.as_of:%Y-%m-%d %H:%M:%S}"),
            ("Test", test),
        ]


def plan(
    history: pl.DataFrame,
    *,
    label_delay: timedelta,
    reach: timedelta,
    as_of: datetime | None = None,
    train_start: datetime | None = None,
    train_days: int | None = None,
    test_days: int = 7,
    validation_days: int = 7,
) -> Split:
    """The split of a history (canonical frame).

    ``reach`` is how far back the windows look. Without ``as_of`` the last ``test_days`` calendar days are the test;
    ``train_start`` and ``train_days`` together set it too. Raises ``InvalidSetting`` where the options contradict each
    other, ``InvalidHistory`` where the history is too short.
    """
    for days in (test_days, validation_days, train_days):
        if days is not None and not 1 <= days <= MOST_DAYS:
            raise InvalidSetting(
                f"--train-days, --validation-days and --test-days must lie between 1 and {MOST_DAYS}, not {days}"
            )
    newest, moved = history["timestamp"][-1], as_of or train_start
    first, last = _midnight(history["timestamp"][0]), _midnight(newest) + DAY
    if train_start and train_days:
        implied = train_start + train_days * DAY + label_delay
        if as_of and as_of != implied:
            raise InvalidSetting(
                f"--train-start, --train-days and --label-delay lead to {implied:%Y-%m-%d %H:%M}, "
                f"--as-of says {as_of:%Y-%m-%d %H:%M}; leave one of them out"
            )
        as_of = implied
    as_of = as_of or last - test_days * DAY
    train_end = as_of - label_delay
    validation = Period(train_end - validation_days * DAY, train_end)
    rehearsal_end = validation.start - label_delay
    warm = first + min(reach, (rehearsal_end - first) / 3)
    if train_start is None:
        train_start = train_end - train_days * DAY if train_days else max(train_end - LONGEST_TRAINING, warm)
    train = Period(max(train_start, first), train_end)
    rehearsal = Period(max(rehearsal_end - (train.end - train.start), min(warm, train.start)), rehearsal_end)
    if train.end - train.start < DAY or rehearsal.end - rehearsal.start < DAY:
        least = FEWEST_DAYS + 2 * label_delay / DAY + validation_days + test_days
        remedy = _fitting((last - first) // DAY, least)
        if moved:
            remedy = "bring a longer history, or give another --as-of or an earlier --train-start"
        raise InvalidHistory(
            f"the history goes from {first:%Y-%m-%d} to {last - DAY:%Y-%m-%d}, too short to train as of "
            f"{as_of:%Y-%m-%d}: before that day lie two label delays of {label_delay / DAY:g} days and "
            f"{validation_days} validation days, and training needs at least {FEWEST_DAYS} days before those; {remedy}"
        )
    test = Period(as_of, min(as_of + test_days * DAY, last))
    tested = newest >= as_of and bool(test.rows(history).any())
    return Split(first, rehearsal, validation, train, as_of, test if tested else None, label_delay)


def known_frauds(history: pl.DataFrame, at: datetime, label_delay: timedelta) -> Mask:
    """Which rows were known to be frauds at an instant, bool [rows]; a label without a date takes the label delay."""
    known = pl.col("labelled_at").fill_null(pl.col("timestamp") + label_delay) <= at
    return history.select(pl.col("is_fraud") & known).to_series().to_numpy()


def _fitting(days: int, least: float) -> str:
    """What to do about a history of so many days, where ``least`` are needed with the options given."""
    longer = f"bring at least {math.ceil(least)} days"
    delay = (days - FEWEST_DAYS - 2) / 2  # a day of validation, a day of test
    if delay <= 0:
        return longer
    return (
        f"{longer}, or lower --test-days, --validation-days or, where labels take less, --label-delay (at most "
        f"{delay:g} with --test-days 1 --validation-days 1)"
    )


def _midnight(instant: object) -> datetime:
    assert isinstance(instant, datetime)
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
