from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from training.calibration import Calibration, calibrate, calibration_bins, chance_error, expected_calibration_error


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


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_calibration_keeps_order_and_ties(seed: int, frauds: int) -> None:
    """However few the frauds are, and wherever they lie."""
    rng = np.random.default_rng(seed)
    margin = np.round(rng.normal(-5, 2, 500), 1)
    y = np.zeros(500, dtype=bool)
    y[rng.choice(500, frauds, replace=False)] = True
    _, ranks = np.unique(margin, return_inverse=True)
    _, kept = np.unique(calibrate(margin, y).scores(margin), return_inverse=True)
    assert (kept == ranks).all()


GROUPS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(GROUPS, st.integers(0, 10_000))
def test_scores_that_are_the_share_of_frauds_have_no_calibration_error(
    groups: list[tuple[int, int]], seed: int
) -> None:
    """Groups of 40 rows or a multiple with one score, which is their share of frauds, in any order."""
    rows = [(frauds / 40, i < frauds * times) for frauds, times in groups for i in range(40 * times)]
    order = np.random.default_rng(seed).permutation(len(rows))
    scores, y = np.array([score for score, _ in rows])[order], np.array([bad for _, bad in rows])[order]
    assert expected_calibration_error(scores, y) == pytest.approx(0, abs=1e-12)
    of_score: dict[float, int] = {}
    for score, of_row in zip(scores.tolist(), calibration_bins(scores).tolist(), strict=True):
        assert of_score.setdefault(score, of_row) == of_row
    in_order = [of_score[score] for score in sorted(of_score)]
    assert in_order == sorted(in_order)


def test_the_calibration_error_is_the_mean_distance_of_bins_that_expect_equally_many_frauds() -> None:
    scores = np.repeat([0.01, 0.1, 0.5, 1.0], [5_000, 500, 100, 50])  # 50 frauds each, so ten bins of 20: four are used
    y = np.zeros(len(scores), dtype=bool)
    y[:80] = y[5_000:5_040] = y[5_500:5_550] = y[5_600:5_645] = True  # 30 too many, 10 and 5 too few
    assert expected_calibration_error(scores, y) == pytest.approx((30 + 10 + 5) / 5_650)
    assert np.unique(calibration_bins(scores)).size == 4


def test_the_error_by_chance_is_what_exact_scores_show() -> None:
    rng = np.random.default_rng(3)
    scores = rng.beta(0.05, 3, 20_000)
    exact = [expected_calibration_error(scores, rng.random(scores.size) < scores) for _ in range(40)]
    assert np.mean(exact) == pytest.approx(chance_error(scores), rel=0.2)
    steeper = 1 / (1 + np.exp(-1.5 * np.log(scores.clip(1e-12) / (1 - scores))))
    assert expected_calibration_error(steeper, rng.random(scores.size) < scores) > 3 * chance_error(steeper)


@pytest.mark.parametrize("scores", [np.zeros(50), np.ones(50), np.full(50, 0.02)])
def test_scores_of_one_value_are_one_bin(scores: np.ndarray) -> None:
    y = np.arange(50) < 1
    assert expected_calibration_error(scores, y) == pytest.approx(abs(scores[0] - 0.02))
    assert expected_calibration_error(scores, np.zeros(50, dtype=bool)) == pytest.approx(scores[0])


def test_without_rows_there_is_no_calibration_error() -> None:
    nothing = np.empty(0)
    assert np.isnan(expected_calibration_error(nothing, nothing.astype(bool)))
    assert np.isnan(chance_error(nothing))
