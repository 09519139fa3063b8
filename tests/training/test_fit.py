from __future__ import annotations

import numpy as np
import pytest

from features.errors import InvalidHistory
from tests.training.fitted import COLUMNS, fitted, rows
from training import fit as fit_module
from training.fit import CANDIDATES, FOREST, LOGISTIC, ROUNDS, XGBOOST, fit, require_frauds


@pytest.mark.parametrize("candidate", [XGBOOST, LOGISTIC])
def test_the_supervised_candidates_tell_frauds_apart(candidate: str) -> None:
    case = fitted()
    margin = case.models.margin(candidate, case.fresh)
    assert margin.dtype == np.float64
    assert margin.shape == case.fresh_y.shape
    frauds, honest = margin[case.fresh_y], margin[~case.fresh_y]
    assert (frauds[:, None] > honest).mean() > 0.9  # the area under the ROC curve


def test_the_forest_scores_outliers_higher_and_a_missing_value_as_the_median() -> None:
    models = fitted().models
    typical = models.medians.reshape(1, -1)
    outlier = typical + np.float32(1e7)
    missing = np.full((1, COLUMNS), np.nan, dtype=np.float32)
    assert models.anomaly(outlier)[0] > models.anomaly(typical)[0]
    assert models.anomaly(missing)[0] == models.anomaly(typical)[0]
    assert 0 < models.anomaly(typical)[0] < models.anomaly(outlier)[0] < 1


def test_the_same_input_gives_the_same_models_and_progress_is_told() -> None:
    features, y = rows(1_500, 3)
    told: list[None] = []
    first, second = fit(features, y, 5, lambda: told.append(None)), fit(features, y, 5)
    assert len(told) == ROUNDS
    for candidate in CANDIDATES:
        assert (first.margin(candidate, features) == second.margin(candidate, features)).all()
    assert first.xgboost.get_booster().save_raw() == second.xgboost.get_booster().save_raw()


def test_of_many_honest_rows_some_are_drawn_and_the_odds_are_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the honest rows the odds are ten times as high, which calibration then puts right."""
    features, y = rows(20_000, 4)
    whole = fit(features, y)
    monkeypatch.setattr(fit_module, "HONEST_ROWS", 2_000)
    drawn = fit(features, y)
    left_out = np.log((~y).sum() / 2_000)
    for candidate in (XGBOOST, LOGISTIC):
        log_odds = (whole.margin(candidate, features), drawn.margin(candidate, features) - left_out)
        share = [float((1 / (1 + np.exp(-margin))).mean()) for margin in log_odds]
        assert share == pytest.approx([y.mean(), y.mean()], rel=0.15)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_importances_are_shares_and_fall_on_what_tells(candidate: str) -> None:
    shares = fitted().models.importances(candidate)
    assert shares.shape == (COLUMNS,)
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    assert shares[[3, 6]].tolist() == [0, 0]  # constant, and always missing
    if candidate != FOREST:
        assert int(np.argmax(shares)) == 0


def test_a_feature_whose_absence_tells_counts_for_the_logistic_regression() -> None:
    shares = fitted().models.importances(LOGISTIC)
    assert shares[4] > 5 * shares[7]


def test_too_few_frauds_are_refused_with_a_remedy() -> None:
    features, y = rows(500, 6)
    y = np.zeros_like(y)
    y[:9] = True
    with pytest.raises(InvalidHistory, match="the training days have 9 frauds known by then and 491 honest"):
        fit(features, y)
    with pytest.raises(InvalidHistory, match=r"the validation days have 491 frauds .* 9 honest .*--train-days"):
        require_frauds(~y, "validation")
