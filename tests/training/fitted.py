"""Small fitted models and a small simulated history that the tests of training share; made once a test run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl

from features.batch import compute
from training.fit import Labels, Matrix, Models, fit
from training.simulate import Simulation, canonical, simulate

COLUMNS = 8


@dataclass(frozen=True)
class Fitted:
    """Models with the rows that they were fitted to, and others."""

    models: Models
    features: Matrix
    y: Labels
    fresh: Matrix
    fresh_y: Labels


def rows(count: int, seed: int) -> tuple[Matrix, Labels]:
    """Features of every kind: telling, skewed, counts, constant, half missing (which tells), rarely missing, empty."""
    rng = np.random.default_rng(seed)
    y = rng.random(count) < 0.05
    x = np.column_stack(
        [
            rng.normal(size=count) + 2 * y,
            rng.lognormal(4, 2, count),
            rng.poisson(3 + 4 * y),
            np.ones(count),
            np.where(rng.random(count) < 0.3 + 0.5 * y, np.nan, rng.normal(size=count)),
            np.where(rng.random(count) < 0.01, np.nan, rng.normal(size=count) * 1e6),
            np.full(count, np.nan),
            rng.normal(size=count) * 1e-6,
        ]
    )
    return x.astype(np.float32), y


@cache
def fitted() -> Fitted:
    """All candidates on 4,000 rows of ``COLUMNS`` features."""
    features, y = rows(4_000, 1)
    fresh, fresh_y = rows(2_000, 2)
    return Fitted(fit(features, y), features, y, fresh, fresh_y)


@cache
def simulated() -> tuple[pl.DataFrame, pl.DataFrame]:
    """A canonical history of 75 days from 2018-04-01 on, some 23,000 rows with 600 frauds, and its features."""
    history = canonical(simulate(Simulation(accounts=150, days=75, intensity=3)))
    return history, compute(history)
