"""The leaves of an ONNX tree ensemble with the conditions on the way to them, as ``features.shapley`` needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from features.errors import InvalidBundle
from features.shapley import CONDITION, NO_CONDITION, Floats, Leaves, Rows, joined

LEAF: Final = b"LEAF"
BELOW: Final = {b"BRANCH_LT": True, b"BRANCH_LEQ": True, b"BRANCH_GT": False, b"BRANCH_GTE": False}
VALUE_IS_BELOW: Final = (b"BRANCH_LEQ", b"BRANCH_GT")  # the split's own value belongs to what lies below
COVER_TOLERANCE: Final = 0.01  # how far a node's cover may be from that of its children, which XGBoost sums in float32

_NEEDED: Final = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_modes",
    "nodes_values",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "target_treeids",
    "target_nodeids",
    "target_weights",
)


@dataclass(frozen=True)
class _Nodes:
    """All nodes of an ensemble, [N]; ``true`` and ``false`` are positions among them, -1 at leaves."""

    feature: NDArray[np.intp]
    true: NDArray[np.intp]
    false: NDArray[np.intp]
    true_is_below: NDArray[np.bool_]
    highest_below: Rows
    lowest_above: Rows
    missing_is_true: NDArray[np.bool_]
    share: Floats  # of the parent's training rows that came here; 1 at roots
    weight: Floats  # 0 at branches


def leaves_of(node: onnx.NodeProto) -> tuple[Leaves, float]:
    """The leaves of a ``TreeEnsembleRegressor`` with one target, and the constant that it adds to their sum.

    ``nodes_hitrates`` has to hold the covers: how many training rows, or how much of their weight, came to each node.
    Raises ``InvalidBundle`` where it does not, or where the ensemble is more than a sum of trees over single features.
    """
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    nodes = _nodes(attributes, node.name)
    child = np.concatenate([nodes.true, nodes.false])
    at = np.setdiff1d(np.arange(len(nodes.feature)), child)
    path = np.empty((0, len(at)), CONDITION)
    found = []
    while len(at):  # one level of all trees at a time
        branch = nodes.true[at] >= 0
        found.append(Leaves(path[:, ~branch], nodes.weight[at[~branch]]))
        at, path = at[branch], path[:, branch]
        path = np.concatenate([_further(nodes, at, path, to_true=way) for way in (True, False)], axis=1)
        at = np.concatenate([nodes.true[at], nodes.false[at]])
    leaves = joined(found)
    longest = int((leaves.conditions["feature"] >= 0).sum(axis=0).max())
    average = attributes.get("aggregate_function", b"SUM") == b"AVERAGE"
    factor = 1 / len(set(attributes["nodes_treeids"])) if average else 1.0
    constant = float(sum(attributes.get("base_values", [])))
    return Leaves(leaves.conditions[:longest], leaves.weight).scaled(factor), constant


def _further(nodes: _Nodes, at: NDArray[np.intp], path: NDArray[np.void], *, to_true: bool) -> NDArray[np.void]:
    """The conditions on the way through branches [m], [depth + 1, m]: all to the true side, or all to the false one."""
    path = np.concatenate([path, np.full((1, len(at)), NO_CONDITION)])
    # The condition on this feature where there is one already, else the first that is free.
    known = path["feature"]
    place = np.argmax((known == nodes.feature[at]) | (known < 0), axis=0), np.arange(len(at))
    low, high = path["low"][place], path["high"][place]
    below = nodes.true_is_below[at] == to_true
    path["feature"][place] = nodes.feature[at]
    path["low"][place] = np.where(below, low, np.maximum(low, nodes.lowest_above[at]))
    path["high"][place] = np.where(below, np.minimum(high, nodes.highest_below[at]), high)
    path["missing"][place] &= nodes.missing_is_true[at] == to_true
    path["cover"][place] *= nodes.share[nodes.true[at] if to_true else nodes.false[at]]
    return path


def _nodes(attributes: dict[str, Any], name: str) -> _Nodes:
    if lacking := [needed for needed in _NEEDED if needed not in attributes]:
        raise InvalidBundle(f"the model's tree ensemble {name!r} has no {', '.join(lacking)}")
    kinds = attributes.get("aggregate_function", b"SUM"), attributes.get("post_transform", b"NONE")
    if kinds[0] not in {b"SUM", b"AVERAGE"} or kinds[1] != b"NONE" or attributes.get("n_targets", 1) != 1:
        raise InvalidBundle(f"the model's tree ensemble {name!r} is not the sum or the average of its trees ({kinds})")
    modes = np.array(attributes["nodes_modes"], dtype=object)
    if unknown := set(modes) - set(BELOW) - {LEAF}:
        raise InvalidBundle(f"the model's tree ensemble {name!r} has nodes of the kinds {sorted(unknown)}")
    branch = modes != LEAF
    tree, node = (np.array(attributes[f"nodes_{which}"], np.int64) for which in ("treeids", "nodeids"))
    size = int(node.max()) + 1
    keys = tree * size + node
    order = np.argsort(keys)

    def position(trees: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.intp]:
        wanted = trees * size + ids
        found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(order) - 1)]
        if not (keys[found] == wanted).all():
            raise InvalidBundle(f"the model's tree ensemble {name!r} names nodes that it does not have")
        return found

    true, false = np.full(len(keys), -1), np.full(len(keys), -1)
    for children, way in ((true, "true"), (false, "false")):
        children[branch] = position(tree[branch], np.array(attributes[f"nodes_{way}nodeids"], np.int64)[branch])
    weight = np.zeros(len(keys))
    targets = position(*(np.array(attributes[f"target_{which}"], np.int64) for which in ("treeids", "nodeids")))
    weight[targets] = attributes["target_weights"]
    value = np.array(attributes["nodes_values"], np.float32)
    of_below = np.isin(attributes["nodes_modes"], VALUE_IS_BELOW)
    return _Nodes(
        feature=np.array(attributes["nodes_featureids"], np.intp),
        true=true,
        false=false,
        true_is_below=np.array([BELOW.get(mode, False) for mode in modes]),
        highest_below=np.where(of_below, value, np.nextafter(value, np.float32(-np.inf))),
        lowest_above=np.where(of_below, np.nextafter(value, np.float32(np.inf)), value),
        missing_is_true=np.array(attributes.get("nodes_missing_value_tracks_true", [0] * len(keys))) == 1,
        share=_shares(np.array(attributes.get("nodes_hitrates", [0] * len(keys)), np.float64), true, false, name),
        weight=weight,
    )


def _shares(cover: Floats, true: NDArray[np.intp], false: NDArray[np.intp], name: str) -> Floats:
    branch = np.flatnonzero(true >= 0)
    of_children = cover[true[branch]] + cover[false[branch]]
    roots = np.setdiff1d(branch, np.concatenate([true[branch], false[branch]]))
    # What a converter writes there by default, 0 or 1 everywhere, does not add up.
    adds_up = np.abs(cover[branch] - of_children) <= COVER_TOLERANCE * cover[branch]
    if not (adds_up.all() and (cover >= 0).all() and (cover[roots] > 0).all()):
        raise InvalidBundle(
            f"the model's tree ensemble {name!r} does not say how many training rows came to each node "
            "(nodes_hitrates), as it did not before reasons were Shapley values"
        )
    share = np.ones(len(cover))
    for child in (true[branch], false[branch]):
        # Where no row came to either child, none came to the node: whichever shares, they are multiplied by 0.
        share[child] = np.divide(cover[child], of_children, out=np.full(len(branch), 0.5), where=of_children > 0)
    return share
