"""Exact Shapley values of tree ensembles: what each feature of a row adds to the sum over the trees.

The game is that of path-dependent TreeSHAP (Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", 2020): with only the features in S known, a tree is walked as the row says at splits on S,
and both ways elsewhere, weighted by how many training rows went each way. A leaf is then a game by itself, a product
over the features on its path,

    v(S) = weight * product of (o_i where i is in S, else z_i),

where o_i (0 or 1) says whether the row meets all of the path's conditions on i, and z_i is the product of the shares of
training rows that do at those splits. Shapley values are linear, so those of the ensemble are the sums over the leaves.

With d features on the path those of a leaf depend on nothing but which of them are met, so all 2^d cases are computed
once and looked up (the idea of Yang, "Fast TreeSHAP", 2021, version 2). Where such a table would be larger than
``TABLE_BYTES``, because the trees are deep, the same formula is computed for each row.

The formula: a Shapley value is the integral over t from 0 to 1 of the game's multilinear extension, derived by its
i-th variable, at (t, ..., t) (Owen, "Multilinear extensions of games", 1972). That of a product game is

    weight * (o_i - z_i) * product over j != i of (z_j + t * (o_j - z_j)),

a polynomial of degree d - 1 in t, which Gauss's quadrature integrates exactly with d / 2 nodes. All of its values are
of one sign, so no digits cancel, however deep the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

TABLE_BYTES: Final = 32_000_000
AT_ONCE: Final = (
    250_000  # conditions; more rows are taken in several goes, so that intermediate results stay in the cache
)


# One of a leaf's conditions: it holds where low <= x <= high, or x is missing and ``missing`` is true; ``cover`` is z.
CONDITION: Final = np.dtype(
    [("feature", np.intp), ("low", np.float32), ("high", np.float32), ("missing", np.bool_), ("cover", np.float64)]
)
NO_CONDITION: Final = np.array((-1, -np.inf, np.inf, True, 1.0), CONDITION)  # holds always; fills up


@dataclass(frozen=True)
class Leaves:
    """The leaves of an ensemble: ``conditions`` [D, L], each of a leaf's on another feature, and ``weight`` [L].

    Leaves with fewer conditions than D end with ``NO_CONDITION``.
    """

    conditions: NDArray[np.void]
    weight: Floats

    def scaled(self, factor: float) -> Leaves:
        """The same leaves with weights times the factor."""
        return Leaves(self.conditions, self.weight * factor)


def joined(parts: Sequence[Leaves]) -> Leaves:
    """The leaves of several ensembles as those of one."""
    deepest = max(len(part.conditions) for part in parts)
    padded = [np.full((deepest, part.weight.size), NO_CONDITION) for part in parts]
    for place, part in zip(padded, parts, strict=True):
        place[: len(part.conditions)] = part.conditions
    return Leaves(np.concatenate(padded, axis=1), np.concatenate([part.weight for part in parts]))


class TreeValues:
    """Shapley values of an ensemble's sum. ``base`` is what it is with nothing known."""

    def __init__(self, leaves: Leaves, width: int) -> None:
        """``width``: how many features a row has."""
        conditions, self._weight = leaves.conditions, leaves.weight
        self._depth, self._count = conditions.shape
        self._low, self._high, self._missing, self._cover = (
            np.ascontiguousarray(conditions[name]) for name in ("low", "high", "missing", "cover")
        )
        self.base = float(self._weight @ self._cover.prod(axis=0))
        self._width = width
        feature = conditions["feature"].ravel()
        self._feature = np.maximum(feature, 0)
        # The conditions in the order of their features, so that what belongs to a feature is one run to be summed.
        self._order = np.argsort(feature, kind="stable")[np.count_nonzero(feature < 0) :]
        self._used, self._starts = np.unique(feature[self._order], return_index=True)
        self._table: Rows | None = None
        if feature.size * 4 << self._depth <= TABLE_BYTES:
            self._table = self._tabulate()
            self._cell = self._order << self._depth
            self._of_leaf = self._order % max(self._count, 1)
        self._bits = (1 << np.arange(self._depth)).astype(np.float32)

    def __call__(self, rows: Rows) -> Floats:
        """What each feature adds, float64 [n, width], to rows float32 [n, width] (NaN = missing)."""
        added = np.zeros((len(rows), self._width))
        if not len(self._order):
            return added
        step = max(1, AT_ONCE // self._feature.size)
        for start in range(0, len(rows), step):
            met = self._met(rows[start : start + step])
            of_condition = self._computed(met) if self._table is None else self._found(met, self._table)
            summed = np.add.reduceat(of_condition, self._starts, axis=1, dtype=np.float64)
            added[start : start + step, self._used] = summed
        return added

    def _met(self, rows: Rows) -> NDArray[np.bool_]:
        """Which conditions hold, [n, D, L]."""
        x = rows.take(self._feature, axis=1).reshape(len(rows), self._depth, self._count)
        met: NDArray[np.bool_] = (self._low <= x) & (x <= self._high) | (np.isnan(x) & self._missing)
        return met

    def _found(self, met: NDArray[np.bool_], table: Rows) -> Rows:
        pattern: NDArray[np.intp] = np.matmul(self._bits, met.astype(np.float32)).astype(np.intp)
        found: Rows = table.take(pattern.take(self._of_leaf, axis=1) + self._cell)
        return found

    def _computed(self, met: NDArray[np.bool_]) -> Floats:
        values = product_game(met.astype(np.float64), self._cover, self._weight)
        return values.reshape(len(met), -1).take(self._order, axis=1)

    def _tabulate(self) -> Rows:
        """float32 [D * L * 2^D]: for each condition its feature's share in each pattern of conditions that hold."""
        patterns = np.arange(1 << self._depth)
        met = (patterns[:, None] >> np.arange(self._depth) & 1).astype(np.float64)[:, :, None]
        table = np.empty((self._depth, self._count, len(patterns)), np.float32)
        step = max(1, AT_ONCE // max(met.size, 1))
        for start in range(0, self._count, step):
            some = slice(start, start + step)
            table[:, some] = product_game(met, self._cover[:, some], self._weight[some]).transpose(1, 2, 0)
        return table.ravel()


def product_game(met: Floats, cover: Floats, weight: Floats) -> Floats:
    """Shapley values [n, D, L] of product games; ``met`` [n, D, L or 1] is o, ``cover`` [D, L] z, ``weight`` [L]."""
    players = cover.shape[0]
    gain = met - cover
    values = np.zeros(gain.shape)
    nodes, shares = np.polynomial.legendre.leggauss((players + 1) // 2 or 1)
    for t, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        factors = cover + t * gain
        # What stands before a factor times what stands after it: a division by the factor would fail where it is 0.
        others = np.full(gain.shape, share)
        before = after = np.ones(gain.shape[::2])
        for i in range(players):
            others[:, i] *= before
            before = before * factors[:, i]
            others[:, -1 - i] *= after
            after = after * factors[:, -1 - i]
        values += others
    return values * gain * weight
