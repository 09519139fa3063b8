"""Real histories: where a training cannot be had, one message says why, and doing what it says gives one."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from features.definitions import feature_set, reach
from features.errors import InvalidHistory
from tests.training.fitted import simulated
from training.shortage import require_enough
from training.split import DAY, Split, plan

FRAUD = pl.col("is_fraud")
START = datetime.fromisoformat("2018-04-01T00:00:00Z")
INSTANT = pl.Datetime("us", "UTC")


def planned(history: pl.DataFrame, **options: object) -> Split:
    """By default the test begins on day 68, training ends on day 61, validation is days 54 to 60."""
    delay = 7 * DAY
    return plan(history, label_delay=delay, reach=reach(feature_set(delay)), **options)  # type: ignore[arg-type]


def refusal(history: pl.DataFrame, *, keep_compromised: bool = False, **options: object) -> str:
    with pytest.raises(InvalidHistory) as caught:
        require_enough(history, planned(history, **options), keep_compromised=keep_compromised)
    return str(caught.value)


def with_frauds(where: pl.Expr, dated: bool = True) -> pl.DataFrame:
    history, _ = simulated()
    labelled = pl.when(FRAUD & where).then("labelled_at") if dated else pl.lit(None, INSTANT)
    return history.with_columns(is_fraud=FRAUD & where, labelled_at=labelled)


def in_days(first: float, last: float) -> pl.Expr:
    return pl.col("timestamp").is_between(START + first * DAY, START + last * DAY, closed="left")


@pytest.mark.parametrize("frauds", [60, 30, 12, 5, 1])
@pytest.mark.parametrize("where", [(0, 75), (0, 10), (65, 75)], ids=["anywhere", "first days", "last days"])
def test_few_frauds_are_refused_with_their_number_and_days(frauds: int, where: tuple[int, int]) -> None:
    history, _ = simulated()
    rows = history.with_row_index().filter(FRAUD, in_days(*where))["index"]
    kept = rows.gather(np.linspace(0, len(rows) - 1, min(frauds, len(rows))).astype(int))
    few = with_frauds(pl.int_range(pl.len()).is_in(kept.implode()))
    message = refusal(few)
    dates = few.filter("is_fraud")["timestamp"].dt.date()
    assert f"the whole history has {len(dates):,} frauds ({dates[0]} to {dates[-1]})" in message
    assert ("twice 10 are the least" in message) == (len(dates) < 20)
    # By hand: 47 days to rehearse on, a third of which only fills the windows.
    rehearsed = int(few.filter(in_days(47 / 3, 47))["is_fraud"].sum())
    assert (f"the rehearsal days have {rehearsed} frauds known by then" in message) == (rehearsed < 10)


@pytest.mark.parametrize(
    ("honest", "short"),
    [((54, 61), ["validation"]), ((0, 47), ["rehearsal"]), ((0, 61), ["rehearsal", "validation", "training"])],
)
def test_all_days_that_are_short_are_named_at_once(honest: tuple[int, int], short: list[str]) -> None:
    message = refusal(with_frauds(~in_days(*honest)))
    assert re.findall(r"the (\w+) days have 0 frauds", message) == short


def test_a_test_without_frauds_is_none_to_refuse() -> None:
    history = with_frauds(~in_days(68, 75))
    require_enough(history, planned(history), keep_compromised=False)


@pytest.mark.parametrize("one_in", [10, 15, 24])
def test_as_many_validation_days_as_it_says_are_enough_and_one_less_is_not(one_in: int) -> None:
    history = with_frauds(pl.int_range(pl.len()) % one_in == 0, dated=False)
    found = re.search(r"--validation-days \(of these (\d+)\)", refusal(history, keep_compromised=True))
    assert found
    message = refusal(history, keep_compromised=True, validation_days=int(found[1]) - 1)
    assert "the validation days have 9 frauds" in message or "the validation days have 8 frauds" in message
    more = planned(history, validation_days=int(found[1]))
    inside = more.validation.rows(history)
    assert history.filter(pl.Series(inside))["is_fraud"].sum() >= 10


def test_labels_that_came_too_late_are_told_from_frauds_that_are_not_there() -> None:
    history, _ = simulated()
    late = history.with_columns(labelled_at=pl.lit(START + 100 * DAY, INSTANT))
    message = refusal(late)
    assert "of the frauds were labelled in time 0 of the" in message
    assert "check labelled_at" in message
    assert "check labelled_at" not in refusal(with_frauds(in_days(0, 10)))


def test_one_account_is_compromised_all_the_time_and_may_be_kept() -> None:
    history, _ = simulated()
    one = history.with_columns(account_id=pl.lit("A"))
    assert "are left out as their accounts had a known fraud: add --keep-compromised" in refusal(one)
    require_enough(one, planned(one), keep_compromised=True)


def test_a_test_of_compromised_accounts_alone_is_refused() -> None:
    history, _ = simulated()
    newest = history.filter(FRAUD, in_days(45, 60))["account_id"][0]
    accounts = pl.when(in_days(68, 75)).then(pl.lit(newest)).otherwise("account_id")
    one = history.with_columns(account_id=accounts)
    assert re.match(r"all [\d,]+ transactions of the test days .*; add --keep-compromised", refusal(one))
    require_enough(one, planned(one), keep_compromised=True)


@pytest.mark.parametrize("silent_from", [54, 61, 68, 72])
def test_a_silence_of_months_is_named_and_training_before_it_works(silent_from: int) -> None:
    history, _ = simulated()
    later = pl.when(in_days(silent_from, 75)).then(pl.lit(timedelta(days=120))).otherwise(pl.lit(timedelta(0)))
    silent = history.with_columns(pl.col("timestamp") + later, pl.col("labelled_at") + later)
    message = refusal(silent)
    found = re.search(r"nothing happened from \S+ \S+ to \S+ \S+ \(120 days\): give --as-of (\S+)", message)
    assert found, message
    as_of = datetime.fromisoformat(f"{found[1]}T00:00:00Z")
    assert as_of == START + silent_from * DAY
    split = planned(silent, as_of=as_of)
    assert split.test is None
    require_enough(silent, split, keep_compromised=True)


def test_a_silence_that_full_days_follow_is_none_to_speak_of() -> None:
    history, _ = simulated()
    later = pl.when(in_days(20, 75)).then(pl.lit(timedelta(days=120))).otherwise(pl.lit(timedelta(0)))
    silent = history.with_columns(pl.col("timestamp") + later, pl.col("labelled_at") + later)
    require_enough(silent, planned(silent), keep_compromised=False)
