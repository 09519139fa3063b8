"""The benchmark of reasons: agreement is counted right, and the old method is what it was."""

from __future__ import annotations

import numpy as np
import pytest

from bench.reasons import agreement, in_hundreds, median_where_known, methods, occlusion
from tests.training.fitted import fitted
from training.calibration import Calibration
from training.export import build, score
from training.fit import LOGISTIC, XGBOOST

CALIBRATION = Calibration(1.5, -0.5)


def test_agreement_counts_firsts_and_what_the_top_three_have_in_common() -> None:
    exact = np.array([[4.0, 3, 2, 1, 0], [4, 3, 2, 1, 0], [2, 2, 1, 0, 0], [0, 1, 2, 3, 4]])
    found = np.array([[9.0, 3, 2, 1, 0], [3, 4, 0, 1, 2], [1, 2, 1, 0, 0], [4, 3, 2, 1, 0]])
    first, common, gap = agreement(found, exact)
    assert first == 2 / 4  # a tie at the top is no difference
    assert common == pytest.approx((3 + 2 + 3 + 1) / 3 / 4)
    assert gap == 5
    assert agreement(exact, exact) == (1, 1, 0)


def test_occlusion_of_a_linear_model_is_its_weight_times_the_distance_to_the_median() -> None:
    case = fitted()
    medians = median_where_known(case.features)
    medians[4:] = 0
    graph = build(case.models, LOGISTIC, Calibration(0.05, 0.0))  # flat, so that no log odds are cut off
    rows = case.fresh[:50, :].copy()
    rows[:, 4:] = 0
    before, _ = score(graph, rows)
    found = in_hundreds(occlusion(graph, medians), rows)
    moved = rows.copy()
    moved[:, 0] = medians[0]
    after, _ = score(graph, moved)
    odds = (np.log(p / (1 - p)) for p in (before.astype(float), after.astype(float)))
    assert found[:, 0] == pytest.approx(np.subtract(*odds), abs=1e-9)
    assert np.abs(found[:, 0]).max() > 0.1
    assert found[:, 3:] == pytest.approx(0.0)  # constant, or at their medians


def test_all_methods_explain_the_same_model() -> None:
    case = fitted()
    graph = build(case.models, XGBOOST, CALIBRATION)
    explained = methods(case.models, graph, CALIBRATION, median_where_known(case.features))
    answers = {name: in_hundreds(method, case.fresh[:250]) for name, method in explained.items()}
    assert {values.shape for values in answers.values()} == {(250, case.fresh.shape[1])}
    assert agreement(answers["Vigie"], answers["XGBoost"])[2] < 1e-4
    totals = {name: values.sum(axis=1) for name, values in answers.items()}
    assert totals["Saabas"] == pytest.approx(totals["XGBoost"], abs=1e-4)  # both are additive, but differ inside
    assert agreement(answers["Saabas"], answers["XGBoost"])[2] > 0.01
