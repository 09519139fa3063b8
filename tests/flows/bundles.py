"""A small bundle whose scores are known in closed form: a logistic curve of the amount alone."""

from __future__ import annotations

import math
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


def expected_score(amount: float) -> float:
    """What the graph gives for an amount in major units."""
    return 1 / (1 + math.exp(-(amount - MIDDLE) / SCALE))


def graph() -> bytes:
    """score = sigmoid((amount - MIDDLE) / SCALE); anomaly_score = 1 - score; one row in, one row out."""
    constants: dict[str, NDArray[Any]] = {
        "first": np.array([0], np.int64),
        "middle": np.array([MIDDLE], np.float32),
        "scale": np.array([SCALE], np.float32),
        "one": np.array([1], np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["amount"], axis=1),
        helper.make_node("Squeeze", ["amount", "axis"], ["flat"]),
        helper.make_node("Sub", ["flat", "middle"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["score"]),
        helper.make_node("Sub", ["one", "score"], ["anomaly_score"]),
    ]
    made = helper.make_graph(
        nodes,
        "amount",
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
        baseline=[50.0, *[0.0] * (len(FEATURES) - 1)],
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
