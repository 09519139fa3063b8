"""The contributions of exported models, against XGBoost's own, against all subsets by hand, and against the scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import onnx
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import IsolationForest

from features.contributions import Contributions
from features.errors import InvalidBundle
from tests.training.fitted import COLUMNS, fitted
from training.calibration import Calibration
from training.export import EXTREMES, build, stress_rows
from training.fit import CANDIDATES, FOREST, LOGISTIC, XGBOOST, Matrix, Models
from training.forest import ML_DOMAIN, tree_ensemble

CALIBRATION = Calibration(1.7, -0.4)
Walk = Callable[[set[int]], float]


def shapley(walk: Walk, width: int) -> list[float]:
    """Shapley values of a game over all subsets of the features."""
    value = {some: walk(set(some)) for size in range(width + 1) for some in combinations(range(width), size)}
    return [
        sum(
            (value[tuple(sorted((*some, i)))] - gained) / (width * math.comb(width - 1, len(some)))
            for some, gained in value.items()
            if i not in some
        )
        for i in range(width)
    ]


def boosted(features: Matrix, seed: int, **parameters: Any) -> xgboost.XGBClassifier:
    """A small model that splits often and, because labels are drawn, on everything."""
    y = np.random.default_rng(seed).random(len(features)) < 0.4
    settings = {
        "n_estimators": 8,
        "max_depth": 4,
        "base_score": 0.5,
        "min_child_weight": 0.1,
        "random_state": seed,
        "n_jobs": 1,
    }
    return xgboost.XGBClassifier(**{**settings, **parameters}).fit(features, y)


def holed(seed: int, rows: int, columns: int) -> Matrix:
    rng = np.random.default_rng(seed)
    features = np.round(rng.normal(size=(rows, columns)), 1).astype(np.float32)
    features[rng.random(features.shape) < 0.2] = np.nan
    return features


def exported(model: xgboost.XGBClassifier) -> Contributions:
    case = fitted().models
    columns = model.n_features_in_
    forest = IsolationForest(n_estimators=1, max_samples=2).fit(np.eye(2, columns))
    models = Models(model, case.logistic, forest, np.zeros(columns, np.float32))
    return Contributions(build(models, XGBOOST, CALIBRATION), "here")


@pytest.mark.parametrize("champion", CANDIDATES)
def test_base_and_contributions_add_up_to_the_log_odds_of_the_score(champion: str) -> None:
    case = fitted()
    graph = build(case.models, champion, CALIBRATION)
    rows = np.concatenate([case.fresh[:300], stress_rows(graph, case.fresh)[::7]])
    rows = rows[(np.abs(np.nan_to_num(rows)) < 1e30).all(axis=1)]  # beyond, a linear model's sums have no digits left
    contributions = Contributions(graph, "here")
    margin = case.models.margin(champion, rows)
    wanted = CALIBRATION.slope * margin + CALIBRATION.intercept
    assert np.isnan(rows).any(axis=1).sum() > 50
    assert contributions.base + contributions(rows).sum(axis=1) == pytest.approx(wanted, rel=1e-6, abs=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_they_are_those_of_xgboost_itself(seed: int, depth: int, columns: int) -> None:
    features = holed(seed, 200, columns)
    model = boosted(features, seed, max_depth=depth)
    edges = np.repeat(np.array(EXTREMES)[:, None], columns, axis=1)
    rows = np.concatenate([features, edges, np.full((1, columns), np.nan, np.float32)])
    wanted = model.get_booster().predict(xgboost.DMatrix(rows), pred_contribs=True)
    contributions = exported(model)
    found = contributions(rows)
    assert found.shape == rows.shape
    assert found == pytest.approx(CALIBRATION.slope * wanted[:, :-1], abs=1e-4 * CALIBRATION.slope)
    assert contributions.base == pytest.approx(CALIBRATION.slope * wanted[0, -1] + CALIBRATION.intercept, abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_boosted_model_is_explained_as_all_subsets_say(seed: int) -> None:
    features = holed(seed, 120, 4)
    model = boosted(features, seed)
    trees = json.loads(model.get_booster().save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]

    def walk(tree: dict[str, list[Any]], node: int, row: Matrix, known: set[int]) -> float:
        left, right = tree["left_children"][node], tree["right_children"][node]
        if left < 0:
            return float(tree["split_conditions"][node])
        feature = tree["split_indices"][node]
        if feature in known:
            x = row[feature]
            to_left = (
                bool(tree["default_left"][node]) if np.isnan(x) else x < np.float32(tree["split_conditions"][node])
            )
            return walk(tree, left if to_left else right, row, known)
        cover = tree["sum_hessian"]
        both = cover[left] + cover[right]
        return math.fsum(cover[child] / both * walk(tree, child, row, known) for child in (left, right))

    def of_trees(row: Matrix, known: set[int]) -> float:
        return math.fsum(walk(tree, 0, row, known) for tree in trees)

    for row, found in zip(features[:6], exported(model)(features[:6]), strict=True):
        wanted = shapley(partial(of_trees, row), 4)
        assert found == pytest.approx(CALIBRATION.slope * np.array(wanted), abs=1e-6)


@pytest.mark.parametrize("size", [2, 16, 64])
def test_an_isolation_forest_is_explained_as_all_subsets_say(size: int) -> None:
    """The exponent is; passing it through the exponential keeps each feature's share of the whole rise."""
    rng = np.random.default_rng(size)
    features = rng.normal(size=(300, 4)).astype(np.float32)
    medians = np.array([0.3, -0.1, 0, 5], np.float32)
    forest = IsolationForest(n_estimators=5, max_samples=size, random_state=1).fit(features)
    case = fitted().models
    model = Models(boosted(features, 0), case.logistic, forest, medians)
    contributions = Contributions(build(model, FOREST, CALIBRATION), "here")
    rows = np.where(rng.random((6, 4)) < 0.3, np.float32(np.nan), features[:6])

    def walk(tree: Any, node: int, row: Matrix, known: set[int], depth: int) -> float:
        left, right, samples = tree.children_left[node], tree.children_right[node], tree.n_node_samples
        if left < 0:
            return depth + path_length(samples[node])
        if tree.feature[node] in known:
            child = left if row[tree.feature[node]] <= tree.threshold[node] else right
            return walk(tree, child, row, known, depth + 1)
        ways = ((samples[c] / samples[node], walk(tree, c, row, known, depth + 1)) for c in (left, right))
        return math.fsum(share * length for share, length in ways)

    def exponent(row: Matrix, known: set[int]) -> float:
        lengths = [walk(tree.tree_, 0, row, known, 0) for tree in forest.estimators_]
        return -math.log(2) * float(np.mean(lengths)) / path_length(forest.max_samples_)

    for row, found in zip(rows, contributions(rows), strict=True):
        filled = np.where(np.isnan(row), medians, row)
        parts = np.array(shapley(partial(exponent, filled), 4))
        low, high = math.exp(exponent(filled, set())), math.exp(exponent(filled, set(range(4))))
        share = parts / parts.sum() if abs(parts.sum()) > 1e-9 else parts
        assert contributions.base == pytest.approx(CALIBRATION.slope * low + CALIBRATION.intercept, abs=1e-6)
        assert found == pytest.approx(CALIBRATION.slope * (high - low) * share, abs=1e-6)
        assert np.array_equal(np.argsort(found[np.abs(found) > 1e-6]), np.argsort(parts[np.abs(found) > 1e-6]))


def path_length(samples: float) -> float:
    """c(n) of Liu, Ting, Zhou (2008), equation 1."""
    if samples <= 2:
        return float(samples - 1)
    return 2 * (math.log(samples - 1) + float(np.euler_gamma)) - 2 * (samples - 1) / samples


def test_a_linear_model_adds_its_weight_times_what_is_unusual() -> None:
    case = fitted()
    pipeline = case.models.logistic
    found = Contributions(build(case.models, LOGISTIC, Calibration(2.0, 5.0)), "here")(case.fresh)
    # By the library alone: what the margin loses when a feature, present or missing, is set to its mean.
    columns = pipeline["impute"].transform(case.fresh.astype(np.float64))
    scaled = pipeline["scale"].transform(columns) * pipeline["model"].coef_[0]
    wanted = scaled[:, :COLUMNS].copy()
    for place, feature in enumerate(pipeline["impute"].indicator_.features_):
        wanted[:, feature] += scaled[:, COLUMNS + place]
    assert found == pytest.approx(2.0 * wanted, rel=1e-9, abs=1e-9)
    fit_rows = Contributions(build(case.models, LOGISTIC, Calibration(2.0, 5.0)), "here")(case.features)
    assert fit_rows.mean(axis=0) == pytest.approx(np.zeros(COLUMNS), abs=1e-9)


# Graphs that training does not make today


def graph(nodes: list[onnx.NodeProto], **constants: Any) -> bytes:
    """Nodes from ``features`` [n, 5] to ``log_odds`` and a sigmoid."""
    made = helper.make_graph(
        [*nodes, helper.make_node("Sigmoid", ["log_odds"], ["score"])],
        "several",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(ML_DOMAIN, 3)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString())


def tree_nodes(count: int) -> list[onnx.NodeProto]:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    forests = [
        IsolationForest(n_estimators=3, max_samples=2**i, random_state=i).fit(features) for i in range(1, count + 1)
    ]
    return [tree_ensemble(f, np.zeros(5, np.float32), "features", f"t{i}") for i, f in enumerate(forests)]


ENSEMBLES: dict[str, tuple[list[tuple[str, list[str]]], Callable[[list[Any]], Any]]] = {
    "their mean": ([("Mean", ["t0", "t1", "t2"])], lambda t: (t[0] + t[1] + t[2]) / 3),
    "their sum, halved": ([("Sum", ["t0", "t1", "t2"]), ("Div", ["y0", "two"])], lambda t: (t[0] + t[1] + t[2]) / 2),
    "a weighted difference": ([("Mul", ["t0", "two"]), ("Sub", ["y0", "t2"])], lambda t: 2 * t[0] - t[2]),
    "one and a constant": ([("Identity", ["t1"]), ("Add", ["y0", "two"])], lambda t: t[1]),
}


@pytest.mark.parametrize("how", ENSEMBLES)
def test_several_ensembles_are_explained_as_one(how: str) -> None:
    steps, combined = ENSEMBLES[how]
    trees = tree_nodes(3)
    rows = holed(5, 30, 5)
    each = [
        Contributions(graph([tree, helper.make_node("Identity", [tree.output[0]], ["log_odds"])]), "here")(rows)
        for tree in trees
    ]
    names = [*(f"y{i}" for i in range(len(steps) - 1)), "log_odds"]
    nodes = [helper.make_node(kind, inputs, [name]) for (kind, inputs), name in zip(steps, names, strict=True)]
    assert Contributions(graph([*trees, *nodes], two=2.0), "here")(rows) == pytest.approx(combined(each), abs=1e-6)


@pytest.mark.parametrize(("mode", "negated"), [("BRANCH_GT", "BRANCH_LEQ"), ("BRANCH_GTE", "BRANCH_LT")])
def test_a_split_the_other_way_round_is_the_same_split(mode: str, negated: str) -> None:
    def stump(mode: str, true: int, missing: int) -> Contributions:
        node = helper.make_node(
            "TreeEnsembleRegressor", ["features"], ["log_odds"], domain=ML_DOMAIN, n_targets=1,
            nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0], nodes_values=[0.5, 0.0, 0.0],
            nodes_modes=[mode, "LEAF", "LEAF"], nodes_truenodeids=[true, 0, 0], nodes_falsenodeids=[3 - true, 0, 0],
            nodes_missing_value_tracks_true=[missing, 0, 0], nodes_hitrates=[4.0, 1.0, 3.0],
            target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 5.0],
        )  # fmt: skip
        return Contributions(graph([node]), "here")

    beside = [np.nextafter(np.float32(0.5), np.float32(to)) for to in (0, 0.5, 1)]
    rows = np.zeros((4, 5), np.float32)
    rows[:, 1] = [*beside, np.nan]
    for missing in (0, 1):
        # With nothing known 1 is a quarter's value, 5 that of three quarters: 4.
        found = stump(mode, 1, missing)(rows)[:, 1]
        assert np.array_equal(found, stump(negated, 2, 1 - missing)(rows)[:, 1])
        high = 0.5 if mode == "BRANCH_GT" else float(beside[0])
        assert found.tolist() == [-3.0 if x > high else 1.0 for x in beside] + [-3.0 if missing else 1.0]


def without_covers(node: onnx.NodeProto) -> None:
    (found,) = (attribute for attribute in node.attribute if attribute.name == "nodes_hitrates")
    node.attribute.remove(found)


def covers_of_a_converter(node: onnx.NodeProto) -> None:
    (found,) = (attribute for attribute in node.attribute if attribute.name == "nodes_hitrates")
    found.floats[:] = [1.0] * len(found.floats)


def the_largest_tree(node: onnx.NodeProto) -> None:
    (found,) = (attribute for attribute in node.attribute if attribute.name == "aggregate_function")
    found.s = b"MAX"


def a_split_by_category(node: onnx.NodeProto) -> None:
    (found,) = (attribute for attribute in node.attribute if attribute.name == "nodes_modes")
    found.strings[0] = b"BRANCH_EQ"


REFUSED: dict[Callable[[onnx.NodeProto], None], str] = {
    without_covers: "does not say how many training rows",
    covers_of_a_converter: "does not say how many training rows",
    the_largest_tree: "not the sum or the average",
    a_split_by_category: "BRANCH_EQ",
}


@pytest.mark.parametrize("change", REFUSED)
def test_trees_that_cannot_be_explained_are_refused_with_a_remedy(change: Callable[[onnx.NodeProto], None]) -> None:
    (tree,) = tree_nodes(1)
    change(tree)
    made = graph([tree, helper.make_node("Identity", ["t0"], ["log_odds"])])
    with pytest.raises(InvalidBundle, match=rf"^there: .*{REFUSED[change]}.* cannot be explained; train it again$"):
        Contributions(made, "there")


def test_a_graph_that_is_no_sum_is_refused_with_a_remedy() -> None:
    nodes = [*tree_nodes(2), helper.make_node("Mul", ["t0", "t1"], ["log_odds"])]
    with pytest.raises(InvalidBundle, match=r"^there: the model has Mul\(t0, t1\) between .*; train it again$"):
        Contributions(graph(nodes), "there")
