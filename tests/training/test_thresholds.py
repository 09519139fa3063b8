from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidSetting
from training.thresholds import AlertRate, AlertsPerDay, LeastCost, Rule, Scored

ROW = st.tuples(st.sampled_from([n / 16 for n in range(17)]), st.booleans(), st.integers(-3_000, 30_000))
ROWS = st.lists(ROW, min_size=1, max_size=40)
Row = tuple[float, bool, int]


def scored(rows: list[Row], days: float = 7) -> Scored:
    scores, y, amounts = zip(*rows, strict=True)
    return Scored(np.array(scores), np.array(y, dtype=bool), np.array(amounts, dtype=np.int64), days)


def everywhere(rows: list[Row]) -> list[float]:
    """Thresholds that give every set of alerts that a threshold can give, from all rows to none."""
    return [*sorted({score for score, _, _ in rows}), 2.0]


def cost(rows: list[Row], threshold: float, review: float) -> float:
    """By the words: a review for each alert, and the amount of each missed fraud, of which a refund has none."""
    alerts = sum(score >= threshold for score, _, _ in rows)
    return alerts * review + sum(max(a, 0) / 100 for score, bad, a in rows if bad and score < threshold)


@given(ROWS, st.integers(1, 50))
def test_a_budget_is_used_as_far_as_ties_allow_and_never_exceeded(rows: list[Row], alerts: int) -> None:
    threshold = AlertsPerDay(alerts).threshold(scored(rows, days=1))
    possible = [sum(score >= at for score, _, _ in rows) for at in everywhere(rows)]
    assert sum(score >= threshold for score, _, _ in rows) == max(n for n in possible if n <= alerts)


@given(ROWS, st.floats(0.01, 400))
def test_no_threshold_costs_less(rows: list[Row], review: float) -> None:
    rule = LeastCost(review)
    threshold = rule.threshold(scored(rows))
    costs = [cost(rows, at, review) for at in everywhere(rows)]
    assert cost(rows, threshold, review) == pytest.approx(min(costs))
    found = rule.metrics(scored(rows), threshold)
    assert found["cost"] == pytest.approx(cost(rows, threshold, review))
    assert found["cost_without_alerts"] == pytest.approx(costs[-1])
    assert found["saved"] == pytest.approx(costs[-1] - min(costs))


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30), st.integers(1, 30))
def test_rounding_to_single_precision_changes_no_alert(values: list[float], alerts: int) -> None:
    """Scores as close as two of single precision can be, and beside them in double precision."""
    beside = [math.nextafter(value, 0.5) for value in values] + values
    rows = scored([(value, True, 100) for value in beside])
    for rule in (AlertsPerDay(alerts), LeastCost(0.5), LeastCost(2)):
        threshold = rule.threshold(rows)
        single = rows.scores.astype(np.float32).astype(np.float64)
        assert ((rows.scores >= threshold) == (single >= threshold)).all()


RULES = [AlertsPerDay(1), AlertRate(0.1), LeastCost(50)]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
def test_rows_of_one_score_get_an_alert_all_or_none(rule: Rule, score: float) -> None:
    """More than the budget, or not worth their reviews: then none, even where no probability is above the score."""
    honest = scored([(score, False, 9_000)] * 60)
    assert not (honest.scores >= rule.threshold(honest)).any()


def test_frauds_that_are_refunds_are_worth_no_review() -> None:
    refunds = [(0.9, True, -50_000)] * 10
    rule = LeastCost(0.01)
    assert rule.threshold(scored(refunds)) > 0.9
    both = scored([*refunds, (0.8, True, 1_000)])
    assert rule.threshold(both) == pytest.approx(0.4)  # ten reviews of refunds on the way to a fraud worth 10.00
    assert rule.metrics(both, 0.4) == pytest.approx({"cost": 0.11, "cost_without_alerts": 10, "saved": 9.89})


def test_of_thresholds_that_cost_the_same_the_one_with_fewer_alerts_is_taken() -> None:
    rows = scored([(0.9, True, 500), (0.5, True, 500), (0.1, False, 500)])
    assert LeastCost(5).threshold(rows) > 0.9
    assert LeastCost(4.99).threshold(rows) == pytest.approx(0.3)


def test_a_single_fraud_decides_alone() -> None:
    rows = scored([(n / 1_000, n == 700, 2_000) for n in range(1_000)])
    assert LeastCost(0.05).threshold(rows) == pytest.approx(0.6995)  # 300 reviews cost 15.00, the fraud 20.00
    assert LeastCost(0.07).threshold(rows) > 0.999


def test_budgets_in_numbers_and_words() -> None:
    thousand = scored([(n / 1_000, False, 1) for n in range(1_000)], days=2)
    for rule, alerts, words in (
        (AlertsPerDay(12.5), 25, "12.5 alerts a day"),
        (AlertRate(0.029), 29, "alerts on 2.9 % of the transactions"),  # 28.999... in floating point
        (AlertRate(0.0001), 1, "alerts on 0.01 % of the transactions"),
        (AlertsPerDay(9_000), 1_000, "9000 alerts a day"),
    ):
        assert (thousand.scores >= rule.threshold(thousand)).sum() == alerts
        assert str(rule) == words
        assert rule.metrics(thousand, 0.5) == {}
    assert AlertRate(0.01).a_day(thousand) == 5
    assert str(LeastCost(5)) == "least cost at 5 a review"


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("rule", "option"),
    [(AlertsPerDay, "--alerts-per-day"), (AlertRate, "--alert-rate"), (LeastCost, "--review-cost")],
)
def test_rules_that_mean_nothing_are_refused(rule: type[Rule], option: str, value: float) -> None:
    with pytest.raises(InvalidSetting, match=f"{option} {value}"):
        rule(value)


def test_a_rate_is_a_share() -> None:
    with pytest.raises(InvalidSetting, match=r"must lie between 0 and 1, such as 0\.005"):
        AlertRate(50)
