"""How long the features of a whole history take, in which memory, and beside pandas' rolling windows.

    python -m bench.features [DATA] [--rows N] [--runs 3] [--no-pandas]

Without DATA a history is simulated, of N rows or of the Handbook's size; of DATA the first N rows are taken. Three ways
run in turn, each time in a process of its own, which reads the history first: ``features.batch`` with all features, the
same with those that pandas' rolling windows can express, and pandas with these. Medians are printed. Peak memory is the
process's, with the history in it; what the process had come to before the measured part stands beside it. The values of
the two ways are held against each other, but for rows with another one of their account or merchant at their instant,
where pandas and Vigie mean different things.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, ParamSpec, TypeVar

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from bench import rolling
from features import batch
from features.definitions import FEATURES, Aggregate, Feature
from features.errors import InvalidSetting, VigieError
from features.history import column_map, load
from training.simulate import Simulation, simulate, write

P = ParamSpec("P")
T = TypeVar("T")

WHOLE, SAME, PANDAS = "features.batch", "features.batch, as pandas", "pandas rolling"
SPARE: Final = 1.1  # accounts simulated, for some payments fall out of the day
RELATIVE, ABSOLUTE = 1e-5, 1e-3  # what pandas' float sums may be off, in parts and in major units
COUNTED: Final = {Aggregate.COUNT, Aggregate.FRAUD_COUNT}


class Measured(NamedTuple):
    """One run: wall and processor seconds, and the process's peak before and after it, in MiB."""

    seconds: float
    processor: float
    before: float
    peak: float


def alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a new process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as process:
        try:
            return process.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            name = getattr(function, "__name__", "a run")
            raise InvalidSetting(f"{name} was killed, likely for want of memory; take fewer --rows") from error


def prepare(data: Path | None, options: argparse.Namespace, folder: Path) -> int:
    """Writes the canonical history to ``folder``; how many rows it has."""
    rows: int | None = options.rows
    if data is None:
        standard = Simulation()
        accounts = math.ceil(rows * SPARE / standard.days / standard.rate) if rows else standard.accounts
        data = folder / "simulated.parquet"
        write(simulate(Simulation(accounts=accounts)), data)
    history = load(data, column_map(options.columns, options.column))
    if rows and rows > len(history):
        raise InvalidSetting(f"--rows {rows:,}: {data} has {len(history):,}; choose fewer, or leave DATA out")
    history = history.head(rows) if rows else history
    history.write_parquet(folder / "history.parquet")
    return len(history)


def measure(way: str, folder: Path) -> Measured:
    """Runs one of the ways, and leaves the values that can be compared in ``folder``."""
    history = pl.read_parquet(folder / "history.parquet")
    features = FEATURES if way == WHOLE else rolling.expressible(history, FEATURES)
    if way == PANDAS:
        table = rolling.table_of(history)
        del history
        values, measured = timed(lambda: pl.DataFrame(rolling.compute(table, features)))
    else:
        values, measured = timed(lambda: batch.compute(history, features))
    if way != WHOLE:
        values.write_parquet(folder / f"{way}.parquet")
    return measured


def timed(function: Callable[[], T]) -> tuple[T, Measured]:
    """The result, and what it took."""
    before, processor, began = peak(), time.process_time(), time.perf_counter()
    result = function()
    return result, Measured(time.perf_counter() - began, time.process_time() - processor, before, peak())


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def disagreements(folder: Path) -> tuple[int, int, dict[str, int]]:
    """Values compared, values left out for ties, and how many values of each feature disagree."""
    history = pl.read_parquet(folder / "history.parquet")
    ours, theirs = (pl.read_parquet(folder / f"{way}.parquet") for way in (SAME, PANDAS))
    compared, left_out, found = 0, 0, {}
    alone_at = {e: history.select(~pl.struct(key, "timestamp").is_duplicated()) for e, key in rolling.KEYS.items()}
    for feature in rolling.expressible(history, FEATURES):
        chosen = alone_at[feature.entity].to_series().to_numpy()
        a, b = (frame[feature.name].to_numpy()[chosen].astype(np.float64) for frame in (ours, theirs))
        relative, absolute = (0.0, 0.0) if feature.aggregate in COUNTED else (RELATIVE, ABSOLUTE)
        if wrong := int((~np.isclose(a, b, relative, absolute, equal_nan=True)).sum()):
            found[feature.name] = wrong
        compared += len(a)
        left_out += len(history) - len(a)
    return compared, left_out, found


def chosen(folder: Path) -> Sequence[Feature]:
    """The features that both ways compute."""
    return rolling.expressible(pl.read_parquet(folder / "history.parquet"), FEATURES)


def report(rows: int, same: int, results: dict[str, list[Measured]], console: Console) -> None:
    """The medians of each way, and how many times as long each takes as ours with the same features."""
    table = Table(title=f"{rows:,} rows, medians of {len(results[WHOLE])} runs")
    for heading in ("", "features", "seconds", "range", "CPU seconds", "rows/s", "peak MiB", "before MiB", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    medians = {way: Measured(*map(statistics.median, zip(*runs, strict=True))) for way, runs in results.items()}
    for way, median in medians.items():
        seconds = [run.seconds for run in results[way]]
        table.add_row(
            way,
            f"{len(FEATURES) if way == WHOLE else same}",
            f"{median.seconds:.2f}",
            f"{min(seconds):.2f}-{max(seconds):.2f}",
            f"{median.processor:.2f}",
            f"{rows / median.seconds:,.0f}",
            f"{median.peak:,.0f}",
            f"{median.before:,.0f}",
            f"{median.seconds / medians[SAME].seconds:.1f}" if way == PANDAS else "",
        )
    console.print(table)


def run(options: argparse.Namespace, console: Console) -> bool:
    """Measures and prints; whether all values agree."""
    ways = (WHOLE, SAME, PANDAS) if options.pandas else (WHOLE,)
    with TemporaryDirectory() as made:
        folder = Path(made)
        rows = alone(prepare, options.data, options, folder)
        results: dict[str, list[Measured]] = {way: [] for way in ways}
        for _ in range(options.runs):
            for way in ways:
                results[way].append(alone(measure, way, folder))
        same = len(alone(chosen, folder))
        report(rows, same, results, console)
        if not options.pandas:
            return True
        compared, left_out, found = alone(disagreements, folder)
        console.print(
            f"{same} of {len(FEATURES)} features are rolling windows to pandas. Of {compared:,} values "
            f"{sum(found.values()):,} disagree; {left_out:,} are left out, for ties mean something else there."
        )
        for name, count in found.items():
            console.print(f"  {name}: {count:,}")
        return not found


def main() -> int:
    """Exit status 0 where all values agree, 1 where some do not, 2 where the data or an option cannot be used."""
    parser = argparse.ArgumentParser(
        "python -m bench.features", description=__doc__.split("\n")[0] if __doc__ else None
    )
    parser.add_argument("data", type=Path, nargs="?", help="a history, .parquet or .csv; simulated if it is left out")
    parser.add_argument("--rows", type=_positive, help="the first so many, or so many simulated")
    parser.add_argument("--runs", type=_positive, default=3, help="of each way (default 3)")
    parser.add_argument("--no-pandas", dest="pandas", action="store_false", help="features.batch alone")
    parser.add_argument("--columns", type=Path, help="a column map, such as features/columns/handbook.toml")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="one column of the map")
    try:
        return int(not run(parser.parse_args(), Console(width=120)))
    except VigieError as error:
        print(f"bench.features: {error}", file=sys.stderr)
        return 2


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
