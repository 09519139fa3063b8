"""A small simulated history with its features, for the tests of the comparison; made once a test run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

from bench.book_features import columns
from bench.contest import Contest
from bench.weeks import WEEK, weeks
from features.batch import compute
from features.definitions import FEATURES
from features.history import load
from training.simulate import Simulation, simulate, write


@cache
def contest() -> Contest:
    """Fifty days of a hundred accounts, some 10,000 rows; one test week and one validation week."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "history.parquet"
        write(simulate(Simulation(accounts=100, days=50, intensity=4)), file)
        history = load(file)
    found = weeks(history, WEEK)
    last = found.test[-1]
    found = replace(found, test=(last,), validation=(last - 2 * WEEK,))
    return Contest(history, compute(history, FEATURES), columns(history, timedelta(days=7)), found)
