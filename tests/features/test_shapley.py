"""Product games against Shapley's own formula, and ensembles by table and without."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features import shapley
from features.shapley import CONDITION, NO_CONDITION, Leaves, TreeValues, joined, product_game

WIDTH = 6
shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def by_definition(met: list[bool], cover: list[float], weight: float) -> list[float]:
    """The mean over all orders in which the players may come: Shapley (1953), written out over all subsets."""
    players = range(len(met))

    def value(known: set[int]) -> float:
        return weight * math.prod(float(met[i]) if i in known else cover[i] for i in players)

    found = []
    for i in players:
        others = [j for j in players if j != i]
        found.append(
            sum(
                (value({*some, i}) - value(set(some))) / (len(met) * math.comb(len(others), size))
                for size in range(len(met))
                for some in combinations(others, size)
            )
        )
    return found


@given(st.lists(st.tuples(st.booleans(), shares), min_size=1, max_size=7), st.floats(-10, 10))
def test_a_product_game_is_shared_out_as_shapley_defined_it(players: list[tuple[bool, float]], weight: float) -> None:
    met, cover = [met for met, _ in players], [cover for _, cover in players]
    found = product_game(np.array(met, np.float64)[None, :, None], np.array(cover)[:, None], np.array([weight]))
    assert found[0, :, 0] == pytest.approx(by_definition(met, cover, weight), rel=1e-12, abs=1e-13)


def test_a_game_of_many_players_loses_no_digits() -> None:
    rng = np.random.default_rng(0)
    for players in (20, 60):
        met, cover = (rng.random((1, players, 500)) < 0.7).astype(np.float64), rng.random((players, 500))
        found = product_game(met, cover, np.ones(500))
        whole = np.where(met[0], 1, 0).prod(axis=0) - cover.prod(axis=0)
        assert found.sum(axis=1)[0] == pytest.approx(whole, abs=1e-13)


def random_leaves(rng: np.random.Generator, count: int, depth: int) -> Leaves:
    conditions = np.full((depth, count), NO_CONDITION, CONDITION)
    for leaf in range(count):
        for level, feature in enumerate(rng.choice(WIDTH, rng.integers(0, depth + 1), replace=False)):
            low, high = np.sort(rng.choice([-np.inf, -1, 0, 1, np.inf], 2, replace=False))
            conditions[level, leaf] = feature, low, high, rng.random() < 0.5, rng.random()
    return Leaves(conditions, rng.normal(size=count))


def random_rows(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    rows = np.round(rng.normal(size=(count, WIDTH)))
    rows[rng.random(rows.shape) < 0.2] = np.nan
    return rows.astype(np.float32)


def slowly(leaves: Leaves, row: NDArray[np.float32]) -> NDArray[np.float64]:
    added = np.zeros(WIDTH)
    for conditions, weight in zip(leaves.conditions.T, leaves.weight, strict=True):
        own = [c for c in conditions if c["feature"] >= 0]
        met = [
            bool(c["missing"] if np.isnan(x := row[c["feature"]]) else c["low"] <= x and x <= c["high"]) for c in own
        ]
        for c, value in zip(own, by_definition(met, [c["cover"] for c in own], weight), strict=True):
            added[c["feature"]] += value
    return added


@pytest.mark.parametrize("table_bytes", [0, shapley.TABLE_BYTES])
@pytest.mark.parametrize(("count", "depth"), [(0, 0), (1, 0), (3, 1), (12, 4), (9, 6)])
def test_an_ensemble_adds_up_its_leaves(
    monkeypatch: pytest.MonkeyPatch, count: int, depth: int, table_bytes: int
) -> None:
    monkeypatch.setattr(shapley, "TABLE_BYTES", table_bytes)
    monkeypatch.setattr(shapley, "AT_ONCE", 50)  # so that rows are taken in several goes
    rng = np.random.default_rng(count)
    leaves, rows = random_leaves(rng, count, depth), random_rows(rng, 17)
    values = TreeValues(leaves, WIDTH)
    found = values(rows)
    assert found.shape == (17, WIDTH)
    assert found == pytest.approx(np.array([slowly(leaves, row) for row in rows]), abs=1e-6)
    assert values(rows[:0]).shape == (0, WIDTH)


def test_ensembles_of_unlike_depth_are_joined() -> None:
    rng = np.random.default_rng(1)
    parts, rows = [random_leaves(rng, 5, depth) for depth in (0, 2, 5)], random_rows(rng, 20)
    whole, each = TreeValues(joined(parts), WIDTH), [TreeValues(part, WIDTH) for part in parts]
    assert whole(rows) == pytest.approx(sum(one(rows) for one in each), abs=1e-6)
    assert whole.base == pytest.approx(sum(one.base for one in each))
