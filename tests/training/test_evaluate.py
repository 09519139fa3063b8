from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluate import card_precision, days_of, judge, known_compromised
from training.split import DAY, Period

START = datetime(2018, 8, 8, tzinfo=UTC)
WEEK = Period(START, START + 7 * DAY)
DAY_US = 86_400_000_000
FIRST_US = 1_533_686_400_000_000  # 2018-08-08 00:00 UTC


def handbook_card_precision(rows: list[tuple[int, str, int, bool]], k: int) -> float:
    """card_precision_top_k of the Handbook, chapter 4, without pandas: rows of (day, account, score, fraud)."""
    detected: set[str] = set()
    precisions = []
    for day in sorted({row[0] for row in rows}):
        score: dict[str, int] = defaultdict(int)
        fraud: dict[str, bool] = defaultdict(bool)
        for row_day, account, row_score, row_fraud in rows:
            if row_day == day and account not in detected:
                score[account] = max(score[account], row_score)
                fraud[account] |= row_fraud
        top = sorted(score, key=lambda account: -score[account])[:k]
        hits = {account for account in top if fraud[account]}
        precisions.append(len(hits) / k)
        detected |= hits
    return sum(precisions) / len(precisions)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_card_precision_is_the_handbooks(rows: list[tuple[int, str, bool]], k: int, random: object) -> None:
    scores = list(range(1, len(rows) + 1))  # no ties: the book leaves their order open
    random.shuffle(scores)  # type: ignore[attr-defined]
    full = [(day, account, score, fraud) for (day, account, fraud), score in zip(rows, scores, strict=True)]
    found = card_precision(
        np.array(scores, dtype=np.float64),
        np.array([row[2] for row in rows]),
        np.array([row[1] for row in rows], dtype=object),
        np.array([row[0] for row in rows]),
        cards=k,
    )
    assert found == pytest.approx(handbook_card_precision(full, k))


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(-20 * 24, 7 * 24 - 1), st.booleans()), min_size=1, max_size=60
    )
)
def test_known_compromised_accounts_are_the_handbooks(rows: list[tuple[str, int, bool]]) -> None:
    """Chapter 3 in days: test day d lacks the accounts with a fraud from day -14 (the training start) to day d - 8."""
    rows = sorted(rows, key=lambda row: row[1])
    history = pl.DataFrame(
        {
            "account_id": [account for account, _, _ in rows],
            "timestamp": [START + hour * DAY / 24 for _, hour, _ in rows],
            "is_fraud": [fraud for _, _, fraud in rows],
            "labelled_at": [None] * len(rows),
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC"), "labelled_at": pl.Datetime("us", "UTC")},
    )
    frauds = [(account, hour // 24) for account, hour, fraud in rows if fraud]
    expected = [
        hour >= 0 and any(who == account and -14 <= day <= hour // 24 - 8 for who, day in frauds)
        for account, hour, _ in rows
    ]
    assert known_compromised(history, WEEK, 7 * DAY).tolist() == expected


def test_a_label_that_came_early_is_known_from_the_next_morning_on() -> None:
    stamps = [START - DAY, *(START + n * DAY / 2 for n in range(4))]
    history = pl.DataFrame(
        {
            "account_id": ["a"] * 5,
            "timestamp": stamps,
            "is_fraud": [True, False, False, False, False],
            "labelled_at": [START + DAY / 4, None, None, None, None],
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC"), "labelled_at": pl.Datetime("us", "UTC")},
    )
    assert known_compromised(history, WEEK, 7 * DAY).tolist() == [False, False, False, True, True]


def test_days_are_counted_from_the_start_of_the_period() -> None:
    assert days_of(np.array([FIRST_US - 1, FIRST_US, FIRST_US + DAY_US - 1, FIRST_US + DAY_US]), WEEK).tolist() == [
        -1,
        0,
        0,
        1,
    ]


def judged(scores: list[float], y: list[bool], threshold: float = 0.5) -> dict[str, float]:
    return judge(
        np.array(scores),
        np.array(y),
        account=np.array(["a", "b", "c", "d"][: len(y)], dtype=object),
        timestamp=np.arange(len(y), dtype=np.int64) + FIRST_US,
        threshold=threshold,
        period=WEEK,
    )


def test_metrics_by_hand() -> None:
    metrics = judged([0.9, 0.8, 0.5, 0.1], [True, False, True, False])
    assert metrics["auc_roc"] == 3 / 4  # of the four pairs, (0.5, 0.8) is the wrong way round
    assert metrics["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["card_precision_100"] == 2 / 100
    assert metrics["recall_at_budget"] == 1
    assert metrics["precision_at_budget"] == pytest.approx(2 / 3)  # a score at the threshold is an alert
    assert metrics["alerts_per_day"] == pytest.approx(3 / 7)


def test_what_has_no_value_is_nan() -> None:
    honest = judged([0.9, 0.2], [False, False])
    assert math.isnan(honest["auc_roc"])
    assert math.isnan(honest["average_precision"])
    assert math.isnan(honest["recall_at_budget"])
    assert honest["precision_at_budget"] == 0
    assert math.isnan(judged([0.1, 0.2], [False, True])["precision_at_budget"])
    assert math.isnan(judged([0.9, 0.8], [True, True])["auc_roc"])
