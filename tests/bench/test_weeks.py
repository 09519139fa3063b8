"""Which weeks a comparison is made on: the Handbook's for its own history, the last ones of any other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from bench.published import published
from bench.weeks import WEEK, weeks
from features.errors import InvalidHistory, InvalidSetting

DAY = timedelta(days=1)


def lasting(days: int, first: datetime = datetime(2018, 4, 1, tzinfo=UTC)) -> pl.DataFrame:
    """Only the first and the last transaction of so many calendar days: nothing else is looked at."""
    ends = [first + timedelta(seconds=31), first + days * DAY - timedelta(seconds=1)]
    return pl.DataFrame({"timestamp": pl.Series(ends, dtype=pl.Datetime("us", "UTC"))})


def test_the_handbooks_history_has_the_handbooks_weeks() -> None:
    found = weeks(lasting(183), WEEK, published().history.opening)
    trained = [f"{found.trained(start).start:%m-%d}" for start in (*found.validation, *found.test)]
    assert trained == ["06-20", "06-27", "07-04", "07-11", "07-25", "08-01", "08-08", "08-15"]
    assert str(found.trained(found.test[0])) == "2018-07-25 to 2018-07-31 (7 days)"
    assert str(found.tested(found.test[0])) == "2018-08-08 to 2018-08-14 (7 days)"


@pytest.mark.parametrize("delay", [1, 7, 10])
def test_other_histories_end_with_their_test_weeks(delay: int) -> None:
    for days in range(2 * delay + 21, 130):
        history = lasting(days)
        found = weeks(history, delay * DAY)
        end = datetime(2018, 4, 1, tzinfo=UTC) + days * DAY
        assert found.test == tuple(end - number * WEEK for number in range(len(found.test), 0, -1))
        begins = [*found.validation, *found.test]
        assert min(begins) - datetime(2018, 4, 1, tzinfo=UTC) >= (2 * delay + 14) * DAY
        # The labels of all validation weeks are known when the first test week begins, and no test week is among them.
        for start in found.validation:
            assert found.tested(start).end + delay * DAY <= found.test[0]
        assert len(found.test) == min(4, (days - 2 * delay - 14) // 7)
        if len(found.test) == len(found.validation) == 4:
            assert {b - a for a, b in zip(found.validation, found.test, strict=True)} == {(28 + delay) * DAY}


def test_a_week_that_the_history_does_not_hold_to_its_end_is_left_out() -> None:
    found = weeks(lasting(60), WEEK, datetime(2018, 5, 20, tzinfo=UTC))
    assert found.test == (datetime(2018, 5, 20, tzinfo=UTC),)


def test_too_short_a_history_and_a_delay_of_no_whole_days_are_refused() -> None:
    with pytest.raises(InvalidHistory, match=r"2018-04-01 to 2018-05-04, too short .* bring at least 35 days"):
        weeks(lasting(34), WEEK)
    for delay in (timedelta(0), timedelta(hours=36), 366 * DAY):
        with pytest.raises(InvalidSetting, match="the protocol goes by whole days"):
            weeks(lasting(183), delay)
