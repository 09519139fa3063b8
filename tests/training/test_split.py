from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from features.errors import InvalidHistory, InvalidSetting
from training.split import DAY, LONGEST_TRAINING, Period, known_frauds, plan

FIRST = datetime(2018, 4, 1, tzinfo=UTC)
WEEK = 7 * DAY
INSTANT = pl.Datetime("us", "UTC")


def days_of_history(days: int) -> pl.DataFrame:
    """One transaction at 10:00 each day from ``FIRST`` on."""
    stamps = [FIRST + n * DAY + timedelta(hours=10) for n in range(days)]
    return pl.DataFrame({"timestamp": stamps}, schema={"timestamp": INSTANT})


def on(month: int, day: int) -> datetime:
    return datetime(2018, month, day, tzinfo=UTC)


def test_by_default_the_last_week_is_the_test_and_a_label_delay_lies_before_it() -> None:
    split = plan(days_of_history(183), label_delay=WEEK, reach=37 * DAY)
    assert split.test == Period(on(9, 24), on(10, 1))
    assert split.train == Period(on(6, 19), on(9, 17))
    assert split.validation == Period(on(9, 10), on(9, 17))
    assert split.rehearsal == Period(on(6, 5), on(9, 3))


def test_the_handbooks_week() -> None:
    split = plan(days_of_history(183), label_delay=WEEK, reach=37 * DAY, train_start=on(7, 25), train_days=7)
    assert split.train == Period(on(7, 25), on(8, 1))
    assert split.as_of == on(8, 8)
    assert split.test == Period(on(8, 8), on(8, 15))
    assert split.rehearsal == Period(on(7, 11), on(7, 18))  # one of the book's validation weeks
    assert split.validation == Period(on(7, 25), on(8, 1))
    assert split == plan(days_of_history(183), label_delay=WEEK, reach=37 * DAY, as_of=on(8, 8), train_days=7)


@given(
    days=st.integers(1, 250),
    label_delay=st.integers(1, 20),
    reach=st.integers(0, 60),
    test_days=st.integers(1, 10),
    validation_days=st.integers(1, 10),
    train_days=st.none() | st.integers(1, 120),
    cut=st.none() | st.integers(0, 260 * 24),
)
def test_no_period_looks_beyond_what_was_known(
    days: int,
    label_delay: int,
    reach: int,
    test_days: int,
    validation_days: int,
    train_days: int | None,
    cut: int | None,
) -> None:
    delay = label_delay * DAY
    try:
        split = plan(
            days_of_history(days),
            label_delay=delay,
            reach=reach * DAY,
            as_of=None if cut is None else FIRST + timedelta(hours=cut),
            train_days=train_days,
            test_days=test_days,
            validation_days=validation_days,
        )
    except InvalidHistory:
        # What it refuses has less than a day to rehearse on.
        until = FIRST + (days - test_days) * DAY if cut is None else FIRST + timedelta(hours=cut)
        assert (until - 2 * delay - validation_days * DAY - FIRST) * 2 / 3 < DAY
        return
    assert FIRST <= split.rehearsal.start < split.rehearsal.end == split.validation.start - delay
    assert split.validation.end == split.train.end == split.as_of - delay
    assert FIRST <= split.train.start < split.train.end
    assert split.train.end - split.train.start <= (train_days * DAY if train_days else LONGEST_TRAINING)
    if split.test:
        assert split.test.start == split.as_of
        assert split.held_out is split.test
    else:
        assert split.held_out is split.validation
        assert split.as_of > FIRST + (days - 1) * DAY + timedelta(hours=10)


def test_the_warm_up_is_left_out_where_the_history_is_long_enough() -> None:
    assert plan(days_of_history(120), label_delay=WEEK, reach=20 * DAY).train.start == FIRST + 20 * DAY
    short = plan(days_of_history(58), label_delay=WEEK, reach=37 * DAY)
    assert short.train.start == FIRST + 10 * DAY  # a third of the 30 days before the rehearsal's end
    assert short.describe()[0] == ("Before training: only fills the windows", "2018-04-01 to 2018-04-10 (10 days)")


def test_a_history_that_ends_at_as_of_has_no_test() -> None:
    split = plan(days_of_history(100), label_delay=WEEK, reach=37 * DAY, as_of=FIRST + 100 * DAY)
    assert split.test is None
    assert split.held_out == split.validation
    assert split.describe()[-1][1].startswith("none")


def test_a_history_that_ends_on_the_day_of_as_of_before_it_has_no_test_either() -> None:
    noon = FIRST + 99 * DAY + timedelta(hours=12)
    assert plan(days_of_history(100), label_delay=WEEK, reach=37 * DAY, as_of=noon).test is None


def test_days_without_transactions_are_no_test() -> None:
    history = days_of_history(100)
    silent = history.filter(~pl.col("timestamp").is_between(FIRST + 70 * DAY, FIRST + 90 * DAY))
    assert plan(silent, label_delay=WEEK, reach=37 * DAY, as_of=FIRST + 75 * DAY).test is None
    late = plan(silent, label_delay=WEEK, reach=37 * DAY, as_of=FIRST + 75 * DAY, test_days=20)
    assert late.test == Period(FIRST + 75 * DAY, FIRST + 95 * DAY)


@pytest.mark.parametrize("days", [1, 4, 5, 20])
def test_a_history_that_is_too_short_says_with_which_options_it_is_not(days: int) -> None:
    history = days_of_history(days)
    with pytest.raises(InvalidHistory, match="too short") as caught:
        plan(history, label_delay=WEEK, reach=37 * DAY)
    found = re.search(r"--label-delay \(at most ([\d.]+) with", str(caught.value))
    if found is None:
        assert days < 5
        assert str(caught.value).endswith("; bring at least 30 days")
        plan(days_of_history(30), label_delay=WEEK, reach=37 * DAY)
        return
    delay = float(found[1]) * DAY
    plan(history, label_delay=delay, reach=37 * DAY, test_days=1, validation_days=1)
    with pytest.raises(InvalidHistory):
        plan(history, label_delay=delay + DAY, reach=37 * DAY, test_days=1, validation_days=1)


def test_a_test_is_no_longer_than_the_history() -> None:
    split = plan(days_of_history(100), label_delay=WEEK, reach=37 * DAY, as_of=FIRST + 97 * DAY)
    assert split.test == Period(FIRST + 97 * DAY, FIRST + 100 * DAY)


def test_it_describes_itself_in_the_order_of_time_with_last_days_included() -> None:
    rows = plan(days_of_history(183), label_delay=WEEK, reach=37 * DAY, train_start=on(7, 25), train_days=7).describe()
    assert [dates for _, dates in rows] == [
        "2018-04-01 to 2018-07-10 (101 days)",
        "2018-07-11 to 2018-07-17 (7 days)",
        "2018-07-25 to 2018-07-31 (7 days)",
        "2018-07-25 to 2018-07-31 (7 days)",
        "2018-08-01 to 2018-08-07 (7 days)",
        "2018-08-08 00:00:00",
        "2018-08-08 to 2018-08-14 (7 days)",
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train_days": 0}, InvalidSetting, "must lie between 1 and 3650, not 0"),
        ({"test_days": -1}, InvalidSetting, "must lie between 1 and 3650, not -1"),
        ({"train_days": 10**9}, InvalidSetting, "must lie between 1 and 3650, not 1000000000"),
        ({"train_start": on(5, 1), "train_days": 7, "as_of": on(6, 1)}, InvalidSetting, "leave one of them out"),
        ({"as_of": on(4, 20)}, InvalidHistory, "from 2018-04-01 to 2018-07-09, too short to train as of 2018-04-20"),
        ({"label_delay": 60 * DAY}, InvalidHistory, "two label delays of 60 days and 7 validation days"),
        ({"train_start": on(7, 1)}, InvalidHistory, "give another --as-of or an earlier --train-start"),
        (
            {"test_days": 90},
            InvalidHistory,
            r"bring at least 113 days, or .*at most 48 with --test-days 1 --validation-days 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(days_of_history(100), **({"label_delay": WEEK, "reach": 37 * DAY} | options))


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.none() | st.integers(0, 60)), min_size=1, max_size=20),
    st.integers(0, 60),
)
def test_a_fraud_is_known_once_its_label_is(rows: list[tuple[int, bool, int | None]], at: int) -> None:
    assume(all(label is None or label >= day for day, _, label in rows))
    history = pl.DataFrame(
        {
            "timestamp": [FIRST + day * DAY for day, _, _ in rows],
            "is_fraud": [fraud for _, fraud, _ in rows],
            "labelled_at": [None if label is None else FIRST + label * DAY for _, _, label in rows],
        },
        schema={"timestamp": INSTANT, "is_fraud": pl.Boolean, "labelled_at": INSTANT},
    )
    expected = [fraud and (day + 7 if label is None else label) <= at for day, fraud, label in rows]
    assert known_frauds(history, FIRST + at * DAY, WEEK).tolist() == expected
