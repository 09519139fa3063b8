"""The data part of the report for a history of one's own: ``python -m training.explore DATA [--out report.html]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from features.batch import compute
from features.errors import InvalidSetting, VigieError
from training.history import ColumnMap, column_map, load
from training.report import render_data

REPORT: Final = Path("artifacts/explore/report.html")


def explore(data: Path, columns: ColumnMap, out: Path) -> None:
    """Loads a history, computes its features, and writes their report to ``out``; a bar shows how far it is.

    Raises ``InvalidHistory`` for an unusable file and ``InvalidSetting`` where ``out`` cannot be written.
    """
    bars = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*bars, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"Reading {data.name}", total=3)
        history = load(data, columns)
        progress.update(task, advance=1, description=f"Computing features of {history.height:,} rows")
        features = compute(history)
        progress.update(task, advance=1, description="Writing the report")
        try:
            render_data(history, features, out)
        except OSError as error:
            raise InvalidSetting(f"--out {out}: {error.strerror}; give a path that can be written") from error
        progress.update(task, advance=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if the report was written, 2 if the history or an option is unusable."""
    parser = argparse.ArgumentParser(prog="python -m training.explore", description=__doc__)
    parser.add_argument("data", type=Path, help="a history: CSV or Parquet, one row a transaction")
    parser.add_argument("--columns", type=Path, metavar="FILE", help="a TOML file that maps column names")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="maps one column")
    parser.add_argument("--out", type=Path, default=REPORT, help="where the report goes (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        explore(options.data, column_map(options.columns, options.column), options.out)
    except VigieError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
