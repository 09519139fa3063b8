from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from features.errors import InvalidSetting
from training.calibration import Budget, Calibration, calibrate, choose_threshold


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_platt_scaling_is_a_logistic_regression_on_platts_targets(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.random(400) < 0.2
    y[:2] = True, False
    margin = scale * (rng.normal(size=400) + y) + shift
    found = calibrate(margin, y)
    frauds, honest = int(y.sum()), int((~y).sum())
    target = np.where(y, (frauds + 1) / (frauds + 2), 1 / (honest + 2))
    # A soft target is a row of each class with weights target and 1 - target.
    doubled = np.repeat((margin - shift) / scale, 2).reshape(-1, 1)
    oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=1_000)
    oracle.fit(doubled, np.tile([1, 0], 400), sample_weight=np.column_stack([target, 1 - target]).ravel())
    expected = oracle.predict_proba(doubled[::2])[:, 1]
    assert found.scores(margin) == pytest.approx(expected, abs=1e-4)
    assert found.scores(margin).mean() == pytest.approx(target.mean(), abs=1e-6)
    assert found.slope > 0


def test_known_probabilities_are_found_again() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(-3, 2, 200_000)
    found = calibrate(margin, rng.random(200_000) < 1 / (1 + np.exp(-(1.5 * margin + 0.5))))
    assert found.slope == pytest.approx(1.5, abs=0.05)
    assert found.intercept == pytest.approx(0.5, abs=0.1)


def test_margins_that_separate_perfectly_stay_finite() -> None:
    margin = np.concatenate([np.full(1_000, -5.0), np.full(10, 5.0)])
    scores = calibrate(margin, margin > 0).scores(margin)
    assert scores[0] == pytest.approx(1 / 1_002, rel=1e-3)
    assert scores[-1] == pytest.approx(11 / 12, rel=1e-3)


@pytest.mark.parametrize("margin", [np.zeros(100), -np.arange(100.0)])
def test_margins_that_say_nothing_or_the_opposite_give_the_share_of_frauds(margin: np.ndarray) -> None:
    y = np.arange(100) >= 80
    scores = calibrate(margin, y).scores(margin)
    assert scores == pytest.approx(np.full(100, 0.2), abs=0.02)


def test_extreme_margins_do_not_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Calibration(1.0, 0.0).scores(np.array([-1e300, -800.0, 0.0, 800.0, 1e300])).tolist() == [0, 0, 0.5, 1, 1]


@given(st.lists(st.sampled_from([n / 16 for n in range(17)]), min_size=1, max_size=50), st.integers(1, 60))
def test_the_threshold_allows_as_many_alerts_as_fit_in_the_budget(values: list[float], alerts: int) -> None:
    scores = np.array(values)
    threshold = choose_threshold(scores, alerts)
    given_alerts = int((scores >= threshold).sum())
    possible = [int((scores >= value).sum()) for value in values]
    assert given_alerts == max((n for n in possible if n <= alerts), default=min(possible))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30, unique_by=lambda value: round(value, 4)), st.integers(1, 30))
def test_rounding_to_single_precision_changes_no_alert(values: list[float], alerts: int) -> None:
    scores = np.array([round(value, 4) for value in values])
    threshold = choose_threshold(scores, alerts)
    assert ((scores >= threshold) == (scores.astype(np.float32).astype(np.float64) >= threshold)).all()


def test_budgets_count_alerts() -> None:
    assert Budget(alerts_per_day=12.5).alerts(rows=10_000, days=7) == 87
    assert Budget(alert_rate=0.005).alerts(rows=10_000, days=7) == 50
    assert Budget(alert_rate=0.005).alerts(rows=10, days=7) == 1
    assert str(Budget(alerts_per_day=50)) == "50 alerts a day"
    assert str(Budget(alert_rate=0.005)) == "alerts on 0.5 % of the transactions"


@pytest.mark.parametrize(
    ("alerts_per_day", "alert_rate"),
    [(None, None), (1.0, 0.1), (0.0, None), (math.inf, None), (math.nan, None), (None, 0.0), (None, 1.0), (None, 50.0)],
)
def test_budgets_that_mean_nothing_are_refused(alerts_per_day: float | None, alert_rate: float | None) -> None:
    with pytest.raises(InvalidSetting):
        Budget(alerts_per_day, alert_rate)
