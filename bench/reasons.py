"""Are the reasons of alerts right, and what do they cost? Vigie's beside XGBoost's own and two cheaper methods.

    python -m bench.reasons [DATA]

XGBoost is fitted to a history as training does it (simulated without DATA), and the held-out rows with the highest
scores are explained by

- ``Vigie``: ``features.contributions``, from the exported graph;
- ``occlusion``: how far the log odds fall when a feature is set to its median over honest training rows, one row a
  feature through the graph in onnxruntime (Zeiler and Fergus, "Visualizing and understanding convolutional networks",
  2014, with a median in place of grey);
- ``Saabas``: the change of the mean at each split on the row's path, as XGBoost computes it (``approx_contribs``);
- ``XGBoost``: exact path-dependent TreeSHAP (``pred_contribs``), which is what the others are held against.

All on one thread, in log odds after calibration. Costs are medians of CPU time over calls, with an alert each or with
a hundred.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import xgboost
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from features.batch import compute
from features.contributions import Contributions
from features.definitions import FEATURES, LABEL_DELAY, reach
from features.errors import VigieError
from features.history import column_map, load
from features.inference import session
from training.calibration import Calibration, calibrate
from training.compare import Rows, judged_rows, training_rows
from training.export import build
from training.fit import CANDIDATES, XGBOOST, XGBOOST_PARAMETERS, Models, fit
from training.pipeline import DEFAULT_RULE
from training.progress import Stages
from training.simulate import canonical, simulate
from training.split import plan
from training.train import SIMULATION

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
Method = Callable[[Matrix], Floats]

ALERTS: Final = 10_000
TOP: Final = 3
HUNDRED: Final = 100
WIDTH: Final = 100  # characters that the table needs, also where there is no terminal
SECONDS: Final = 2.0  # for each cost
LARGE: Final = {"n_estimators": 300, "max_depth": 6, "min_child_weight": 1}
_EDGE: Final = 1e-6  # scores are held this far from 0 and 1, where log odds are infinite


def methods(models: Models, graph: bytes, calibration: Calibration, medians: Matrix) -> dict[str, Method]:
    """From rows [n, F] to contributions [n, F], by name; the last is the oracle."""
    booster = models.xgboost.get_booster()
    booster.set_param({"nthread": 1})

    def by_xgboost(rows: Matrix, *, approximate: bool) -> Floats:
        matrix = xgboost.DMatrix(rows, nthread=1)
        found = booster.predict(matrix, pred_contribs=True, approx_contribs=approximate)
        return calibration.slope * found[:, :-1].astype(np.float64)

    return {
        "Vigie": Contributions(graph, "the exported model"),
        "occlusion": occlusion(graph, medians),
        "Saabas": lambda rows: by_xgboost(rows, approximate=True),
        "XGBoost": lambda rows: by_xgboost(rows, approximate=False),
    }


def occlusion(graph: bytes, medians: Matrix) -> Method:
    """Each row with each of its features set to ``medians`` [F], through the graph."""
    ready = session(graph)

    def log_odds(rows: Matrix) -> Floats:
        (score,) = ready.run(["score"], {"features": rows})
        held = np.clip(np.asarray(score, np.float64), _EDGE, 1 - _EDGE)
        return np.asarray(np.log(held / (1 - held)))

    def explain(rows: Matrix) -> Floats:
        occluded = np.repeat(rows[:, None, :], rows.shape[1], axis=1)
        every = np.arange(rows.shape[1])
        occluded[:, every, every] = medians
        without = log_odds(occluded.reshape(-1, rows.shape[1])).reshape(rows.shape)
        return log_odds(rows)[:, None] - without

    return explain


def median_where_known(rows: Matrix) -> Matrix:
    """Each column's median [F] over rows [n, F]; NaN where it is always missing."""
    known = [column[~np.isnan(column)] for column in rows.T]
    return np.array([np.median(values) if len(values) else np.nan for values in known], np.float32)


def in_hundreds(method: Method, rows: Matrix) -> Floats:
    """A method's answers for many rows."""
    return np.concatenate([method(rows[start : start + HUNDRED]) for start in range(0, len(rows), HUNDRED)])


def agreement(found: Floats, exact: Floats) -> tuple[float, float, float]:
    """Of rows [n, F]: the share with the same first feature, the mean share of the top 3 in common, the largest gap.

    A feature that adds exactly as much as the first is as good as the first.
    """
    rows = np.arange(len(exact))
    first = exact[rows, found.argmax(axis=1)] == exact.max(axis=1)
    ours, theirs = (np.argsort(-values, axis=1, kind="stable")[:, :TOP] for values in (found, exact))
    common = (ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean(axis=1)
    return float(first.mean()), float(common.mean()), float(np.abs(found - exact).max())


def cost(method: Method, rows: Matrix, at_once: int, seconds: float = SECONDS) -> float:
    """Microseconds of CPU an alert, the median over calls with so many rows each, for so many seconds."""
    method(rows[:at_once])
    taken: list[float] = []
    start, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        batch = np.ascontiguousarray(rows[start : start + at_once])
        began = time.process_time()
        method(batch)
        taken.append(time.process_time() - began)
        start = start + at_once if start + 2 * at_once <= len(rows) else 0
    return float(np.median(taken)) / at_once * 1e6


def compare(explained: dict[str, Method], rows: Matrix, alerts: int, console: Console, seconds: float) -> None:
    """Prints what each method says of rows [n, F], highest score first, and what it costs."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in ("first", f"top {TOP}", "gap", "alerts' first", f"top {TOP}", "us, one", f"us, of {HUNDRED}"):
        table.add_column(column, justify="right", no_wrap=True)
    answers = {name: in_hundreds(method, rows) for name, method in explained.items()}
    exact = answers["XGBoost"]
    for name, found in answers.items():
        first, common, gap = agreement(found, exact)
        of_alerts = agreement(found[:alerts], exact[:alerts])
        costs = [f"{cost(explained[name], rows, at_once, seconds):,.0f}" for at_once in (1, HUNDRED)]
        shares = [f"{share:.1%}" for share in (first, common, *of_alerts[:2])]
        table.add_row(name, *shares[:2], f"{gap:.1e}", *shares[2:], *costs)
    console.print(table)
    console.print(
        f"first: the same strongest feature as XGBoost's; top {TOP}: in common; gap: the largest difference, in log "
        f"odds; alerts' first and top {TOP}: the same of the alerts alone; us: CPU time an alert"
    )


def additive(models: Models, rows: Rows, console: Console) -> None:
    """Prints how far base and contributions are from the log odds of the libraries' scores, for each candidate."""
    for candidate in CANDIDATES:
        margin = models.margin(candidate, rows.features)
        calibration = calibrate(margin, rows.y)
        explain = Contributions(build(models, candidate, calibration), candidate)
        found = explain.base + in_hundreds(explain, rows.features).sum(axis=1)
        gap = np.abs(found - (calibration.slope * margin + calibration.intercept)).max()
        console.print(f"{candidate}: base and contributions add up to the log odds, at most {gap:.1e} from them")


def start_of_a_large_model(models: Models, x: Matrix, y: NDArray[np.bool_], console: Console) -> None:
    """Prints what reading a graph of many trees costs, in time and memory."""
    large = xgboost.XGBClassifier(**{**XGBOOST_PARAMETERS, **LARGE}, n_jobs=1).fit(x, y)
    graph = build(dataclasses.replace(models, xgboost=large), XGBOOST, Calibration(1.0, 0.0))
    began = time.process_time()
    Contributions(graph, "a large model")
    took = time.process_time() - began
    tracemalloc.start()
    kept = Contributions(graph, "a large model")
    held, peak = (size / 1e6 for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    one, of_hundred = (cost(kept, x[:1000], at_once) for at_once in (1, HUNDRED))
    console.print(
        f"{LARGE['n_estimators']} trees of depth {LARGE['max_depth']}: {took:.2f} s of CPU at the start, "
        f"{held:.0f} MB kept ({peak:.0f} MB meanwhile); {one:,.0f} us for one alert, {of_hundred:,.0f} us of {HUNDRED}"
    )


def run(history: pl.DataFrame, test_days: int, wanted: int, seconds: float, stages: Stages) -> None:
    """Fits, explains and prints. Raises ``VigieError`` where the history does not allow it."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    with stages.stage(f"Computing {len(FEATURES)} features of {history.height:,} transactions"):
        features = compute(history)
    split = plan(history, label_delay=LABEL_DELAY, reach=reach(FEATURES), test_days=test_days)
    with stages.stage("Fitting the models"):
        x, y = training_rows(history, features, split, split.train)
        models = fit(x, y)
    rows = judged_rows(history, features, split, split.held_out, keep_compromised=False)
    margin = models.margin(XGBOOST, rows.features)
    # Calibrated on the very rows, which is no matter here: it multiplies what every method says by the same slope.
    calibration = calibrate(margin, rows.y)
    scores = calibration.scores(margin)
    alerts = int((scores >= DEFAULT_RULE.threshold(rows.scored(scores))).sum())
    chosen = np.argsort(-scores, kind="stable")[:wanted]
    console.print(
        f"The {len(chosen):,} highest scores of {len(scores):,} held-out rows, {split.held_out}; the first {alerts:,} "
        f"would be alerts ({DEFAULT_RULE})"
    )
    highest = dataclasses.replace(
        rows, **{name: getattr(rows, name)[chosen] for name in ("features", "y", "account", "timestamp", "amount")}
    )
    graph = build(models, XGBOOST, calibration)
    explained = methods(models, graph, calibration, median_where_known(x[~y]))
    compare(explained, highest.features, min(alerts, len(chosen)), console, seconds)
    additive(models, highest, console)
    start_of_a_large_model(models, x, y, console)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; exit status 2 where the data cannot be used."""
    parser = argparse.ArgumentParser(prog="reasons", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, nargs="?", help="a history, .parquet or .csv; simulated if it is left out")
    parser.add_argument("--columns", type=Path, help="a column map, such as features/columns/handbook.toml")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="one column of the map")
    parser.add_argument("--test-days", type=int, default=28, metavar="N", help="held-out days (default: 28)")
    parser.add_argument("--alerts", type=int, default=ALERTS, metavar="N", help=f"how many (default: {ALERTS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="for each cost (default: 2)")
    asked = parser.parse_args(arguments)
    try:
        with Stages() as stages:
            if asked.data:
                history = load(asked.data, column_map(asked.columns, asked.column))
            else:
                with stages.stage("Simulating"):
                    history = canonical(simulate(SIMULATION))
            run(history, asked.test_days, asked.alerts, asked.seconds, stages)
    except VigieError as error:
        print(f"reasons: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
