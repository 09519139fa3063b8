"""A small bundle whose scores are known in closed form: a logistic curve of the amount alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from features import bundle
from features.definitions import FEATURES, fingerprint

THRESHOLD = 0.5
MIDDLE = 220.0  # major units at which the score is one half
SCALE = 20.0
USUAL = [50.0, *[0.0] * (len(FEATURES) - 1)]  # the means of the features
AMOUNT_ALONE = [1 / SCALE, *[0.0] * (len(FEATURES) - 1)]


def expected_score(amount: float) -> float:
    """What the graph gives for an amount in major units."""
    return 1 / (1 + math.exp(-(amount - MIDDLE) / SCALE))


def graph(weights: Sequence[float] = AMOUNT_ALONE, means: Sequence[float] = USUAL) -> bytes:
    """A linear model as training exports one: log odds = (50 - MIDDLE) / SCALE + weights @ (features - means).

    A missing feature counts as its mean; anomaly_score = 1 - score; any number of rows.
    """
    constants: dict[str, NDArray[Any]] = {
        "means": np.array(means, np.float32),
        "weights": np.array(weights, np.float32)[:, None],
        "bias": np.array([(USUAL[0] - MIDDLE) / SCALE], np.float32),
        "one": np.array([1], np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "means", "features"], ["filled"]),
        helper.make_node("Sub", ["filled", "means"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], ["flat"]),
        helper.make_node("Add", ["flat", "bias"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["score"]),
        helper.make_node("Sub", ["one", "score"], ["anomaly_score"]),
    ]
    made = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(FEATURES)])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("score", "anomaly_score")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make(models: Path, version: str = "test-1") -> Path:
    """Publishes the bundle; returns ``models/current``."""
    manifest = bundle.Manifest(
        version=version,
        created_at="2026-01-01T00:00:00Z",
        features=[f.name for f in FEATURES],
        fingerprint=fingerprint(FEATURES),
        label_delay_seconds=7 * 86_400,
        threshold=THRESHOLD,
        alert_budget="scores of one half and more",
        champion="amount",
        data_from="2018-04-01T00:00:00Z",
        data_until="2018-09-30T00:00:00Z",
        rows=1,
        frauds=1,
        libraries={"onnx": onnx.__version__},
        opset=17,
        metrics={},
    )
    bundle.publish(models, manifest, {bundle.MODEL: graph()})
    return models / bundle.CURRENT
