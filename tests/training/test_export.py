from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from features.errors import ExportRefused
from tests.training.fitted import COLUMNS, Fitted, fitted, rows
from training.calibration import Calibration, calibrate
from training.export import EXTREMES, TOLERANCE, build, score, stress_rows, verify
from training.fit import CANDIDATES, LOGISTIC, XGBOOST, fit

NAMES = tuple(f"f{column}" for column in range(COLUMNS))


def calibrated(case: Fitted, candidate: str) -> Calibration:
    return calibrate(case.models.margin(candidate, case.features), case.y)


@pytest.mark.parametrize("champion", CANDIDATES)
def test_the_graph_scores_as_the_libraries_do(champion: str) -> None:
    case = fitted()
    calibration = calibrated(case, champion)
    graph = build(case.models, champion, calibration)
    assert verify(graph, case.models, champion, calibration, features=case.fresh, names=NAMES) <= TOLERANCE / 4
    everything = np.concatenate([case.fresh, stress_rows(graph, case.fresh)])
    scores, anomalies = score(graph, everything)
    assert anomalies == pytest.approx(case.models.anomaly(everything), abs=1e-6)
    assert ((scores >= 0) & (scores <= 1) & (anomalies >= 0) & (anomalies <= 1)).all()


@pytest.mark.parametrize("champion", CANDIDATES)
def test_the_graph_keeps_its_contract(champion: str) -> None:
    graph = build(fitted().models, champion, Calibration(2.0, -1.0))
    model = onnx.load_from_string(graph)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"features": ["n", COLUMNS], "score": ["n"], "anomaly_score": ["n"]}
    for count in (0, 1, 513):
        scores, anomalies = score(graph, np.zeros((count, COLUMNS), dtype=np.float32))
        assert scores.shape == anomalies.shape == (count,)
        assert scores.dtype == anomalies.dtype == np.float32


@pytest.mark.parametrize("champion", CANDIDATES)
def test_the_same_models_give_the_same_bytes(champion: str) -> None:
    features, y = rows(1_500, 3)
    first, second = (build(fit(features, y), champion, Calibration(1.0, 0.0)) for _ in range(2))
    assert first == second


def test_the_stress_rows_hold_missing_and_extreme_values_and_both_sides_of_splits() -> None:
    case = fitted()
    made = stress_rows(build(case.models, XGBOOST, Calibration(1.0, 0.0)), case.fresh)
    split_on = case.models.xgboost.get_booster().trees_to_dataframe()
    for column in range(COLUMNS):
        values = set(made[:, column].tolist())
        assert np.isnan(made[:, column]).any()
        assert {float(value) for value in EXTREMES} <= values
        splits = split_on.loc[split_on.Feature == f"f{column}", "Split"].astype(np.float32)
        if len(splits):
            low = np.float32(splits.min())
            beside = {float(low), *(float(np.nextafter(low, np.float32(to))) for to in (-np.inf, np.inf))}
            assert beside <= values
    assert np.isnan(made).all(axis=1).any()


def attribute(name: str, change: Callable[[list[float]], list[float]], node: str = "xgboost") -> Callable[..., None]:
    """Changes one attribute of a tree ensemble."""

    def tamper(model: onnx.ModelProto) -> None:
        (ensemble,) = (n for n in model.graph.node if n.name == node)
        (found,) = (a for a in ensemble.attribute if a.name == name)
        changed = helper.make_attribute(name, change(list(helper.get_attribute_value(found))))
        ensemble.attribute.remove(found)
        ensemble.attribute.append(changed)

    return tamper


def constant(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    """Changes one constant of the graph."""

    def tamper(model: onnx.ModelProto) -> None:
        (found,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        value = numpy_helper.to_array(found)
        found.CopyFrom(numpy_helper.from_array(change(value).astype(value.dtype), name))

    return tamper


TAMPERED = {
    "a leaf": (XGBOOST, attribute("target_weights", lambda w: [w[0] + 0.05, *w[1:]])),
    "the way of missing values": (XGBOOST, attribute("nodes_missing_value_tracks_true", lambda t: [0] * len(t))),
    "< for <=": (
        XGBOOST,
        attribute("nodes_modes", lambda m: [b"BRANCH_LEQ" if mode == b"BRANCH_LT" else mode for mode in m]),  # type: ignore[comparison-overlap, misc]
    ),
    "splits in half precision": (
        XGBOOST,
        attribute("nodes_values", lambda v: [float(np.float16(min(max(x, -6e4), 6e4))) for x in v]),
    ),
    "a path length": (
        XGBOOST,
        attribute("target_weights", lambda w: [x * 1.001 for x in w], node="isolation_forest"),
    ),
    "the forest's missing values": (
        XGBOOST,
        attribute("nodes_missing_value_tracks_true", lambda t: [1 - x for x in t], node="isolation_forest"),
    ),
    "the calibration": (XGBOOST, constant("intercept", lambda b: b + 1e-3)),
    "a weight": (LOGISTIC, constant("weights", lambda w: w * 1.001)),
    "the weight of a missing value": (LOGISTIC, constant("weights_of_missing", lambda w: w * 0)),
    "a median": (LOGISTIC, constant("medians", lambda m: m + 1)),
    "a result that is not a number": (LOGISTIC, constant("bias", lambda b: b * np.nan)),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_gate_refuses_a_graph_that_differs_in(what: str) -> None:
    case = fitted()
    champion, tamper = TAMPERED[what]
    calibration = calibrated(case, champion)
    model = onnx.load_from_string(build(case.models, champion, calibration))
    tamper(model)
    with pytest.raises(ExportRefused, match=r"in the ONNX graph and .* in the library, in .* row \d+ .*f0=") as refused:
        verify(model.SerializeToString(), case.models, champion, calibration, features=case.fresh, names=NAMES)
    assert "nothing was published" in str(refused.value)


def test_the_gate_needs_no_held_out_rows() -> None:
    case = fitted()
    graph = build(case.models, XGBOOST, Calibration(1.0, 0.0))
    empty = np.empty((0, COLUMNS), dtype=np.float32)
    assert verify(graph, case.models, XGBOOST, Calibration(1.0, 0.0), features=empty, names=NAMES) <= TOLERANCE
    with pytest.raises(ExportRefused, match="made-up row"):
        verify(graph, case.models, XGBOOST, Calibration(1.01, 0.0), features=empty, names=NAMES)
