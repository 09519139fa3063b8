"""An Isolation Forest as one ONNX tree ensemble whose leaves hold path lengths.

A general converter writes several operators a tree, which costs 760 us a row; a single TreeEnsembleRegressor costs what
any boosted model of that size costs, and is as exact.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from sklearn.ensemble import IsolationForest
from sklearn.tree._tree import Tree

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

ML_DOMAIN: Final = "ai.onnx.ml"


def tree_ensemble(forest: IsolationForest, medians: Matrix, source: str, output: str) -> onnx.NodeProto:
    """A node from ``source`` float32 [n, F] to ``output`` float32 [n, 1], the logarithm of the anomaly score.

    That is -ln(2) * (mean path length) / c(psi), after Liu, Ting, Zhou, "Isolation Forest" (2008), equations 1 and 2:
    a tree's path length is the depth of the leaf plus c(samples in the leaf), and psi is the size of a tree's sample.
    ``nodes_hitrates`` are the samples in each node. ``medians`` float32 [F] stand for missing values: a NaN goes the
    way that its feature's median goes.
    """
    scale = math.log(2.0) / (len(forest.estimators_) * _expected_path(np.array([forest.max_samples_]))[0])
    parts = [_nodes(number, tree.tree_, medians, scale) for number, tree in enumerate(forest.estimators_)]
    nodes = {name: np.concatenate([part[name] for part in parts]).tolist() for name in parts[0]}
    return onnx.helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        [output],
        name="isolation_forest",
        domain=ML_DOMAIN,
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        nodes_modes=[b"LEAF" if leaf else b"BRANCH_LEQ" for leaf in nodes.pop("is_leaf")],
        **nodes,
    )


def _nodes(number: int, tree: Tree, medians: Matrix, scale: float) -> dict[str, npt.NDArray[Any]]:
    """The attributes of one tree, all but ``nodes_modes``; leaf weights are path lengths times -scale."""
    leaf = tree.children_left == -1
    feature = np.where(leaf, 0, tree.feature)
    threshold = np.where(leaf, np.float32(0), largest_at_most(tree.threshold))
    left, right = (np.where(leaf, 0, children) for children in (tree.children_left, tree.children_right))
    depth = np.zeros(tree.node_count)
    for node in np.flatnonzero(~leaf):  # scikit-learn numbers parents before their children
        depth[[left[node], right[node]]] = depth[node] + 1
    path = depth + _expected_path(tree.n_node_samples)
    ids = np.arange(tree.node_count)
    return {
        "is_leaf": leaf,
        "nodes_treeids": np.full(tree.node_count, number),
        "nodes_nodeids": ids,
        "nodes_featureids": feature,
        "nodes_values": threshold,
        "nodes_hitrates": tree.n_node_samples.astype(np.float32),
        "nodes_truenodeids": left,
        "nodes_falsenodeids": right,
        "nodes_missing_value_tracks_true": (~leaf & (medians[feature] <= threshold)).astype(np.int64),
        "target_treeids": np.full(leaf.sum(), number),
        "target_nodeids": ids[leaf],
        "target_ids": np.zeros(leaf.sum(), dtype=np.int64),
        "target_weights": (-scale * path[leaf]).astype(np.float32),
    }


def largest_at_most(threshold: Floats) -> Matrix:
    """The largest float32 not above each float64: a float32 value is <= the one exactly if it is <= the other."""
    nearest = threshold.astype(np.float32)
    return np.where(nearest > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _expected_path(samples: npt.NDArray[Any]) -> Floats:
    """c(n), the mean path length of an unsuccessful search in a binary tree of n samples; equation 1, c(2) = 1."""
    n = np.maximum(samples, 3).astype(np.float64)
    formula = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(samples > 2, formula, np.where(samples == 2, 1.0, 0.0))
