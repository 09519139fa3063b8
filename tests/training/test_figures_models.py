from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from tests.training.evaluations import evaluation, history
from training.figures import Chart
from training.figures_models import metrics, model_parts, precision_recall, roc, score_spread


def test_the_table_says_what_sklearn_says() -> None:
    tested = evaluation()
    table = metrics(tested)
    assert table.emphasis == 0
    for row in table.rows:
        cells = dict(zip(table.header, row, strict=True))
        score = tested.candidates[cells["candidate"].replace(" ", "_")]
        alert = score >= tested.threshold
        assert cells["AUC ROC"] == f"{roc_auc_score(tested.y, score):.4f}"
        assert cells["average precision"] == f"{average_precision_score(tested.y, score):.4f}"
        assert cells["recall at budget"] == f"{alert[tested.y].mean():.4f}"
        assert cells["precision at budget"] == f"{tested.y[alert].mean():.4f}"
    assert f"{tested.y.size} held-out transactions with {tested.y.sum()} frauds" in table.reading


def test_a_metric_that_a_candidate_lacks_is_a_dash() -> None:
    tested = evaluation(metrics={"xgboost": {"auc_roc": 0.9}, "logistic_regression": {}, "isolation_forest": {}})
    assert [row[1] for row in metrics(tested).rows] == ["0.9000", "-", "-"]


def test_the_drawn_roc_curve_has_the_area_it_is_said_to_have() -> None:
    tested = evaluation(history(rows=40_000))
    chart = roc(tested)
    for name, line in zip(tested.candidates, chart.figure.data[::2], strict=False):
        area = roc_auc_score(tested.y, tested.candidates[name])
        assert len(line.x) <= 602
        assert auc(line.x, line.y) == pytest.approx(area, abs=0.002)
        assert line.name.endswith(f"AUC {area:.3f}")


def test_the_drawn_precision_lies_on_the_curve() -> None:
    tested = evaluation(history(rows=40_000))
    chart = precision_recall(tested)
    for name, line in zip(tested.candidates, chart.figure.data, strict=False):
        assert line.name.endswith(f"AP {average_precision_score(tested.y, tested.candidates[name]):.3f}")
        score = tested.candidates[name]
        ranked = tested.y[np.argsort(-score, kind="stable")]
        recalls = np.cumsum(ranked) / ranked.sum()
        precisions = np.cumsum(ranked) / np.arange(1, ranked.size + 1)
        points = set(zip(recalls.round(9), precisions.round(9), strict=True))
        assert set(zip(line.x.round(9), line.y.round(9), strict=True)) - points <= {(0.0, 1.0)}


def test_the_threshold_is_marked_where_it_is() -> None:
    tested = evaluation()
    alert = tested.candidates["xgboost"] >= tested.threshold
    [marker] = [trace for trace in precision_recall(tested).figure.data if trace.name == "the threshold"]
    assert marker.x[0] == pytest.approx(alert[tested.y].mean())
    assert marker.y[0] == pytest.approx(tested.y[alert].mean())


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 2.0},
        {"threshold": 0.0},
        {"candidates": {"constant": np.full(1, 0.5)}},
        {"candidates": {"zero": np.zeros(1)}},
        {"candidates": {"one": np.ones(1)}},
        {"candidates": {"<b>odd & long name</b>": np.full(1, 0.1)}},
    ],
)
def test_extreme_scores_and_thresholds_give_every_figure(change: dict[str, Any]) -> None:
    rows = evaluation().y.size
    if "candidates" in change:
        change = {"candidates": {name: np.full(rows, score[0]) for name, score in change["candidates"].items()}}
    parts = model_parts(evaluation(**change))
    assert [part.name for part in parts] == ["metrics", "roc", "precision_recall", "calibration", "score_spread"]
    assert all("nan" not in part.figure.to_json().lower() for part in parts if isinstance(part, Chart))


def test_scores_of_each_class_add_up() -> None:
    for outline in score_spread(evaluation()).figure.data:
        assert sum(outline.y) == pytest.approx(100)
