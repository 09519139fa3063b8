"""The data part of the report for a history of one's own: ``python -m training.explore DATA [--out report.html]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from features.batch import compute
from features.definitions import FEATURES
from features.errors import InvalidSetting, VigieError
from features.history import ColumnMap, column_map, load
from training.progress import Stages
from training.report import render_data

REPORT: Final = Path("artifacts/explore/report.html")


def explore(data: Path, columns: ColumnMap, out: Path) -> None:
    """Loads a history, computes its features, and writes their report to ``out``; stderr shows how far it is.

    Raises ``InvalidHistory`` for an unusable file and ``InvalidSetting`` where ``out`` cannot be written.
    """
    with Stages() as stages:
        with stages.stage(f"Loading {data.name}"):
            history = load(data, columns)
        with stages.stage(f"Computing {len(FEATURES)} features of {history.height:,} transactions"):
            features = compute(history)
        with stages.stage("Writing the report"):
            try:
                render_data(history, features, out)
            except OSError as error:
                raise InvalidSetting(f"--out {out}: {error.strerror}; give a path that can be written") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if the report was written, 2 if the history or an option is unusable."""
    parser = argparse.ArgumentParser(prog="python -m training.explore", description="The data part of the report.")
    parser.add_argument("data", type=Path, help="a history, .parquet or .csv")
    parser.add_argument(
        "--columns", type=Path, metavar="FILE", help="map of column names, such as features/columns/kaggle.toml"
    )
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=COLUMN", help="one mapped column name; may be repeated"
    )
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
