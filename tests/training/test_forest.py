from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from features.inference import session
from training.fit import Matrix
from training.forest import ML_DOMAIN, largest_at_most, tree_ensemble


def scores(node: onnx.NodeProto, features: Matrix) -> Matrix:
    """The node alone in a graph, run by onnxruntime."""
    graph = onnx.helper.make_graph(
        [node],
        "forest",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", features.shape[1]])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 1])],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(ML_DOMAIN, 3)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (found,) = session(model.SerializeToString()).run(None, {"x": features})
    scores: Matrix = np.exp(np.asarray(found, dtype=np.float32)[:, 0])
    return scores


@pytest.mark.parametrize("size", [2, 3, 17, 256])
@pytest.mark.parametrize("trees", [1, 50])
def test_it_is_scikit_learns_forest(size: int, trees: int) -> None:
    rng = np.random.default_rng(size)
    columns = [rng.normal(size=600), rng.poisson(2, 600), rng.lognormal(5, 3, 600), np.round(rng.normal(size=600), 1)]
    features = np.column_stack(columns).astype(np.float32)
    forest = IsolationForest(n_estimators=trees, max_samples=size, random_state=1).fit(features)
    medians = np.median(features, axis=0)
    extremes = np.array([[3.4e38] * 4, [-3.4e38] * 4, [1e-45] * 4, [0] * 4], dtype=np.float32)
    rows = np.concatenate([features, features * 3, extremes])
    # The values on which float32 and float64 comparisons part: those next to the splits.
    for tree in forest.estimators_:
        for feature, split in zip(tree.tree_.feature, tree.tree_.threshold, strict=True):
            if feature >= 0:
                row = np.tile(features[0], (3, 1))
                row[:, feature] = [np.nextafter(np.float32(split), np.float32(to)) for to in (-np.inf, split, np.inf)]
                rows = np.concatenate([rows, row]) if len(rows) < 3_000 else rows
    found = scores(tree_ensemble(forest, medians, "x", "y"), rows)
    assert found == pytest.approx(-forest.score_samples(rows), abs=1e-6)


def test_a_missing_value_goes_where_its_median_goes() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 5)).astype(np.float32)
    forest = IsolationForest(n_estimators=30, random_state=1).fit(features)
    medians = np.array([0.3, -5, 5, 0, 1e30], dtype=np.float32)
    holes = np.where(rng.random(features.shape) < 0.4, np.float32(np.nan), features)
    found = scores(tree_ensemble(forest, medians, "x", "y"), holes)
    assert found == pytest.approx(-forest.score_samples(np.where(np.isnan(holes), medians, holes)), abs=1e-6)


@given(st.floats(-3e38, 3e38), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_thresholds_in_single_precision_part_the_same_values(threshold: float, value: float) -> None:
    single = largest_at_most(np.array([threshold]))[0]
    for x in (np.float32(value), single, np.nextafter(single, np.float32(np.inf)), np.float32(threshold)):
        assert (float(x) <= threshold) == (x <= single)
