"""A small simulated history with its features, for the tests of the comparison; made once a test run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache

from bench.book_features import columns
from bench.contest import Contest
from bench.weeks import WEEK, weeks
from features.batch import compute
from features.definitions import FEATURES
from training.simulate import Simulation, canonical, simulate


@cache
def contest() -> Contest:
    """Fifty days of a hundred accounts, some 10,000 rows; one test week and one validation week."""
    history = canonical(simulate(Simulation(accounts=100, days=50, intensity=4)))
    found = weeks(history, WEEK)
    last = found.test[-1]
    found = replace(found, test=(last,), validation=(last - 2 * WEEK,))
    return Contest(history, compute(history, FEATURES), columns(history, timedelta(days=7)), found)
