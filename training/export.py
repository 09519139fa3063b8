"""One ONNX graph from the champion, its calibration and the Isolation Forest, and the gate that it must pass.

    features float32 [n, F] -> score float32 [n] (0 to 1, calibrated), anomaly_score float32 [n] (0 to 1)

XGBoost's trees come through onnxmltools; its classifier node becomes a regressor of the raw margin, so that the
calibration follows in the graph. Both tree ensembles say in ``nodes_hitrates``, which no runtime reads, how many of the
training rows came to each node: ``features.contributions`` explains scores with it. The gate scores held-out rows and
rows made to hurt (missing values, extreme values, values at and beside splits) with the graph and with the libraries,
and refuses what differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from xgboost import XGBClassifier

from features.errors import ExportRefused
from features.inference import session
from training.calibration import Calibration, Floats
from training.fit import LOGISTIC, XGBOOST, Matrix, Models
from training.forest import ML_DOMAIN, tree_ensemble

OPSET: Final = 18
ML_OPSET: Final = 3
IR_VERSION: Final = 10
TOLERANCE: Final = 1e-5
FEATURES: Final = "features"
OUTPUTS: Final = ("score", "anomaly_score")
EXTREMES: Final = tuple(np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38, 1.0, -1.0, 3.4e38, -3.4e38], dtype=np.float32))
SPLITS_A_FEATURE: Final = 20  # of each tree ensemble


def build(models: Models, champion: str, calibration: Calibration) -> bytes:
    """The graph of a champion (one of ``CANDIDATES``) and the anomaly score, serialized; same in, same bytes out."""
    columns = len(models.medians)
    constants: dict[str, npt.NDArray[np.generic]] = {"second_axis": np.array([1], dtype=np.int64)}
    nodes = [
        tree_ensemble(models.forest, models.medians, FEATURES, "log_anomaly"),
        helper.make_node("Exp", ["log_anomaly"], ["anomaly"]),
        helper.make_node("Squeeze", ["anomaly", "second_axis"], [OUTPUTS[1]]),
    ]
    if champion == XGBOOST:
        nodes.append(_boosted_margin(models.xgboost, columns, "margin"))
    elif champion == LOGISTIC:
        logistic_nodes, logistic_constants = _logistic_margin(models, "margin")
        nodes += logistic_nodes
        constants |= logistic_constants
    else:
        nodes.append(helper.make_node("Identity", ["anomaly"], ["margin"]))
    precision: type[np.floating] = np.float64 if champion == LOGISTIC else np.float32
    constants["slope"] = np.array(calibration.slope, dtype=precision)
    constants["intercept"] = np.array(calibration.intercept, dtype=precision)
    nodes += [
        helper.make_node("Mul", ["margin", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "intercept"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["probability"]),
        helper.make_node("Cast", ["probability"], ["probability_single"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["probability_single", "second_axis"], [OUTPUTS[0]]),
    ]
    graph = helper.make_graph(
        nodes,
        "vigie",
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in OUTPUTS],
        [numpy_helper.from_array(value, name) for name, value in sorted(constants.items())],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="vigie")
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def verify(
    graph: bytes,
    models: Models,
    champion: str,
    calibration: Calibration,
    *,
    features: Matrix,
    names: tuple[str, ...],
) -> float:
    """The largest difference between graph and libraries, over rows [n, F] and ``stress_rows`` of them.

    Raises ``ExportRefused`` with the worst row where it is above ``TOLERANCE``, or where a score is not a number.
    """
    worst = 0.0
    for kind, rows in (("held-out", features), ("made-up", stress_rows(graph, features))):
        wanted = calibration.scores(models.margin(champion, rows)), models.anomaly(rows)
        for output, found, expected in zip(OUTPUTS, score(graph, rows), wanted, strict=True):
            difference = np.abs(found.astype(np.float64) - expected)
            if not difference.size:
                continue
            row = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
            if not difference[row] <= TOLERANCE:
                beyond = int((~(difference <= TOLERANCE)).sum())
                values = ", ".join(f"{name}={value:.9g}" for name, value in zip(names, rows[row], strict=True))
                raise ExportRefused(
                    f"{output} is {found[row]:.9g} in the ONNX graph and {expected[row]:.9g} in the library, in {kind} "
                    f"row {row} ({beyond:,} of {len(rows):,} such rows differ by more than {TOLERANCE:g}); nothing was "
                    "published. Check the installed versions of onnxruntime, onnxmltools and xgboost against the "
                    f"pinned ones. The row: {values}"
                )
            worst = max(worst, float(difference[row]))
    return worst


def score(graph: bytes, features: Matrix) -> tuple[Matrix, Matrix]:
    """Score and anomaly score, float32 [n] each, of rows float32 [n, F], by onnxruntime on one thread."""
    scores, anomalies = session(graph).run(list(OUTPUTS), {FEATURES: np.ascontiguousarray(features)})
    return np.asarray(scores, dtype=np.float32), np.asarray(anomalies, dtype=np.float32)


def stress_rows(graph: bytes, features: Matrix) -> Matrix:
    """Rows float32 [m, F] on which conversions go wrong, made from rows [n, F] and the splits of the graph's trees.

    Each feature missing, extreme, and at, just below and just above splits of its own; all missing; all extreme.
    Infinities are left out: no feature can hold one, and XGBoost refuses them.
    """
    columns = features.shape[1]
    typical = features[np.linspace(0, len(features) - 1, 5).astype(int)] if len(features) else np.zeros((1, columns))
    made = [np.full((1, columns), value, dtype=np.float32) for value in (np.nan, *EXTREMES)]
    for column, chosen in enumerate(_splits(graph, columns)):
        beside = [np.nextafter(chosen, np.float32(to), dtype=np.float32) for to in (-np.inf, np.inf)]
        values = np.concatenate([np.array([np.nan, *EXTREMES], dtype=np.float32), chosen, *beside])
        rows = np.repeat(typical, len(values), axis=0).astype(np.float32)
        rows[:, column] = np.tile(values, len(typical))
        made.append(rows)
    return np.concatenate(made)


def _splits(graph: bytes, columns: int) -> list[Matrix]:
    """Finite split values of each feature, spread over those of each tree ensemble of a graph."""
    chosen: list[list[Matrix]] = [[np.empty(0, dtype=np.float32)] for _ in range(columns)]
    for node in onnx.load_from_string(graph).graph.node:
        if node.op_type != "TreeEnsembleRegressor":
            continue
        ensemble = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        branch = np.array(ensemble["nodes_modes"]) != b"LEAF"
        features = np.array(ensemble["nodes_featureids"])[branch]
        values = np.array(ensemble["nodes_values"], dtype=np.float32)[branch]
        for column in range(columns):
            splits = np.unique(values[(features == column) & np.isfinite(values)])
            spread = np.linspace(0, len(splits) - 1, min(SPLITS_A_FEATURE, len(splits)))
            chosen[column].append(splits[spread.astype(int)])
    return [np.concatenate(parts) for parts in chosen]


def _boosted_margin(model: XGBClassifier, columns: int, output: str) -> onnx.NodeProto:
    """XGBoost's trees as a regressor of the margin: the converter's classifier without classes and sigmoid."""
    converted = convert_xgboost(model, initial_types=[(FEATURES, FloatTensorType([None, columns]))])
    (node,) = (n for n in converted.graph.node if n.op_type == "TreeEnsembleClassifier")
    classifier = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    ensemble = {name: value for name, value in classifier.items() if name.startswith("nodes_") or name == "base_values"}
    ensemble |= {
        name.replace("class_", "target_"): value for name, value in classifier.items() if name.startswith("class_")
    }
    ensemble["nodes_hitrates"] = _covers(model, ensemble)
    return helper.make_node(
        "TreeEnsembleRegressor",
        [FEATURES],
        [output],
        name="xgboost",
        domain=ML_DOMAIN,
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        **ensemble,
    )


def _covers(model: XGBClassifier, ensemble: Mapping[str, Sequence[int]]) -> list[float]:
    """The sum of the hessian in each node of the converted trees, which XGBoost itself takes as a node's cover.

    The converter numbers nodes in another order, so both trees are walked together, from the root to the left (true)
    and to the right.
    """
    booster = json.loads(model.get_booster().save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    place = {key: i for i, key in enumerate(zip(ensemble["nodes_treeids"], ensemble["nodes_nodeids"], strict=True))}
    covers = [math.nan] * len(place)
    for number, tree in enumerate(booster):
        walk = [(0, 0)]
        while walk:
            theirs, ours = walk.pop()
            at = place[number, ours]
            covers[at] = tree["sum_hessian"][theirs]
            if (left := tree["left_children"][theirs]) >= 0:
                walk.append((left, ensemble["nodes_truenodeids"][at]))
                walk.append((tree["right_children"][theirs], ensemble["nodes_falsenodeids"][at]))
    return covers


def _logistic_margin(models: Models, output: str) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """The pipeline of imputer, scaler and linear model in double precision; scaling is folded into the weights.

    Columns enter less their means over the training rows: what a column then adds is its Shapley value.
    """
    impute, scale, model = (models.logistic[step] for step in ("impute", "scale", "model"))
    folded: Floats = model.coef_[0] / scale.scale_
    columns = len(models.medians)
    indicated = impute.indicator_.features_
    of_missing, shares_missing = np.zeros(columns), np.zeros(columns)
    of_missing[indicated], shares_missing[indicated] = folded[columns:], scale.mean_[columns:]
    constants: dict[str, npt.NDArray[np.generic]] = {
        "medians": impute.statistics_.astype(np.float64),
        "weights": folded[:columns].reshape(-1, 1),
        "weights_of_missing": of_missing.reshape(-1, 1),
        "means": scale.mean_[:columns],
        "shares_missing": shares_missing,
        "bias": np.array(model.intercept_[0]),
    }
    nodes = [
        helper.make_node("Cast", [FEATURES], ["features_double"], to=TensorProto.DOUBLE),
        helper.make_node("IsNaN", ["features_double"], ["missing"]),
        helper.make_node("Where", ["missing", "medians", "features_double"], ["filled"]),
        helper.make_node("Cast", ["missing"], ["missing_double"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["filled", "means"], ["values_centred"]),
        helper.make_node("Sub", ["missing_double", "shares_missing"], ["missing_centred"]),
        helper.make_node("MatMul", ["values_centred", "weights"], ["of_values"]),
        helper.make_node("MatMul", ["missing_centred", "weights_of_missing"], ["of_missing"]),
        helper.make_node("Add", ["of_values", "of_missing"], ["unbiased"]),
        helper.make_node("Add", ["unbiased", "bias"], [output]),
    ]
    return nodes, constants
