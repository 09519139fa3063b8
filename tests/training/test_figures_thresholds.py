from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluations import evaluation, history
from training.figures import Chart
from training.figures_calibration import log_odds
from training.figures_thresholds import alerts_by_day, cost_curve, threshold_parts
from training.thresholds import AlertRate, AlertsPerDay, LeastCost, Rule, Scored


def test_alerts_of_each_day_add_up_and_stand_beside_the_budget() -> None:
    tested = evaluation(rule=AlertRate(0.1))
    chart = alerts_by_day(tested)
    frauds, false, budget = chart.figure.data
    alert = tested.candidates["xgboost"] >= tested.threshold
    day = (tested.timestamp - tested.timestamp.min()) // 86_400_000_000
    assert sum(frauds.y) == (alert & tested.y).sum() > 0
    assert sum(false.y) == (alert & ~tested.y).sum()
    assert sum(budget.y) == pytest.approx(0.1 * tested.y.size)
    assert len(set(budget.y)) > 1  # a share of each day's own transactions
    assert len(frauds.x) == 7 == day.max() + 1
    assert f"{alert.sum()} alerts, {alert.sum() / 7:.1f} a day" in chart.reading
    assert list(alerts_by_day(evaluation(budget=3)).figure.data[2].y) == [3.0] * 7


def test_without_a_budget_the_days_are_held_against_the_validation_days() -> None:
    rows = Scored(np.array([0.95] * 28 + [0.1] * 100), np.zeros(128, bool), np.ones(128, np.int64), 14)
    chart = alerts_by_day(evaluation(rule=LeastCost(5), threshold=0.5, validation=rows))
    assert chart.figure.data[2].name == "mean of the validation days"
    assert list(chart.figure.data[2].y) == [2.0] * 7


def costly(review: float = 5) -> tuple[LeastCost, Chart]:
    """A threshold chosen on the rows themselves, so validation and held-out days are one."""
    rule = LeastCost(review)
    data = history(rows=20_000)
    tested = evaluation(data)
    tested = evaluation(data, rule=rule, threshold=rule.threshold(tested.scored))
    found = rule.metrics(tested.scored, tested.threshold)
    chart = cost_curve(tested, rule)
    marker = chart.figure.data[2]
    assert marker.x[0] == pytest.approx(log_odds(np.array([tested.threshold]))[0])
    assert marker.y[0] == pytest.approx(found["cost"] / 7)
    assert f"which saves {found['saved']:,.2f}" in chart.reading
    assert f"cost {found['cost_without_alerts']:,.2f}" in chart.reading
    return rule, chart


def test_the_marked_threshold_lies_at_the_bottom_of_the_drawn_costs() -> None:
    _, chart = costly()
    for line in chart.figure.data[:2]:
        assert len(line.x) == len(line.y) <= 500
        assert min(line.y) >= chart.figure.data[2].y[0] - 1e-9
        assert min(line.y) == pytest.approx(chart.figure.data[2].y[0], rel=0.05)
        assert line.y[0] == pytest.approx(chart.figure.layout.shapes[0].y0)  # no alert


def test_where_no_alert_is_worth_its_review_the_page_says_so() -> None:
    _, chart = costly(review=1e6)
    assert "which saves 0.00 (0 %)" in chart.reading
    assert "no alert is worth its review" in chart.reading
    assert "no alert is worth" not in costly()[1].reading


@pytest.mark.parametrize("rule", [AlertsPerDay(3), LeastCost(5)], ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("flag", [False, True])
def test_extremes_give_every_figure(rule: Rule, threshold: float, flag: bool) -> None:
    size = evaluation().y.size
    tested = evaluation(rule=rule, threshold=threshold, y=np.full(size, flag), candidates={"c": np.full(size, 0.2)})
    parts = threshold_parts(tested)
    assert [part.name for part in parts] == ["alerts_by_day", "cost"][: 1 + isinstance(rule, LeastCost)]
    assert all("nan" not in part.figure.to_json().lower() for part in parts if isinstance(part, Chart))
