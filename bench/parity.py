"""Do the stream and the batch compute the same features? Every row, every feature, every bit.

    python -m bench.parity DATA

The history runs through the real dataflow, labels at the moment they became known, and through ``features.batch``; the
float32 values are compared as bits, with NaN equal to NaN.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import bytewax.operators as op
import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from features import batch
from features.definitions import FEATURES
from features.errors import VigieError
from features.history import column_map, load
from features.transaction import Label, Transaction
from flows.intake import Dealt
from flows.past import events_of
from flows.records import Candidates, Rejection, apart
from flows.score import with_features
from flows.shards import Dealer

BATCH: Final = 1000


class HistorySource(FixedPartitionedSource[Rejection | Dealt, None]):
    """A history's transactions and labels, in the order in which they became known."""

    def __init__(self, events: Iterator[Transaction | Label]) -> None:
        self.events = events

    def list_parts(self) -> list[str]:
        """One."""
        return ["history"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> HistoryPartition:  # noqa: ARG002
        """From the beginning."""
        return HistoryPartition(self.events)


class HistoryPartition(StatefulSourcePartition[Rejection | Dealt, None]):
    """Deals the events as the Kafka source does; a history is in order, so its watermark is as tight as can be."""

    def __init__(self, events: Iterator[Transaction | Label]) -> None:
        self._events = events
        self._dealer = Dealer(1)

    def next_batch(self) -> Iterable[Dealt]:
        """A thousand at a time."""
        columns, labels = apart(islice(self._events, BATCH))
        if not len(columns) and not labels:
            raise StopIteration
        return self._dealer.deal(columns, labels, int(columns.timestamp.max(initial=0)))

    def snapshot(self) -> None:
        """Nothing: this source runs once."""


class Collect(DynamicSink[Candidates], StatelessSinkPartition[Candidates]):
    """Puts each candidate's features into the row of its transaction."""

    def __init__(self, rows: dict[str, int], values: NDArray[np.float32], progress: Progress) -> None:
        self._rows = rows
        self._values = values
        self._progress = progress
        self._task = progress.add_task("stream", total=len(rows))

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Collect:  # noqa: ARG002
        """Itself: there is one worker."""
        return self

    def write_batch(self, items: list[Candidates]) -> None:
        """Float32, as the scorer gets it."""
        for transactions, features in ((item.transactions, item.features) for item in items):
            self._values[[self._rows[identity] for identity in transactions.transaction_id]] = features
            self._progress.advance(self._task, len(transactions))


def stream(history: pl.DataFrame, progress: Progress) -> NDArray[np.float32]:
    """Float32 [rows, features] of the dataflow; rows that it did not give stay NaN, so they differ somewhere."""
    values = np.full((len(history), len(FEATURES)), np.nan, np.float32)
    rows = {transaction_id: i for i, transaction_id in enumerate(history["transaction_id"])}
    flow = Dataflow("parity")
    read = op.input("history", flow, HistorySource(events_of(history)))
    op.output("collect", with_features(read, FEATURES), Collect(rows, values, progress))
    run_main(flow)  # type: ignore[no-untyped-call]  # bytewax ships it without types
    return values


def main() -> int:
    """Prints how many values differ, and where; exit status 1 where any does."""
    parser = argparse.ArgumentParser(prog="parity", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="a history, .parquet or .csv")
    parser.add_argument("--columns", type=Path, help="a column map, such as features/columns/handbook.toml")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="one column of the map")
    arguments = parser.parse_args()
    try:
        history = load(arguments.data, column_map(arguments.columns, arguments.column))
    except VigieError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2

    with Progress(console=Console(stderr=True)) as progress:
        began = time.perf_counter()
        streamed = stream(history, progress)
        took = time.perf_counter() - began
    began = time.perf_counter()
    batched = batch.compute(history).to_numpy()
    batch_took = time.perf_counter() - began

    differ = (streamed.view(np.uint32) != batched.view(np.uint32)) & ~(np.isnan(streamed) & np.isnan(batched))
    for column, feature in enumerate(FEATURES):
        if differ[:, column].any():
            row = int(differ[:, column].argmax())
            print(
                f"{feature.name}: {differ[:, column].sum()} differ, first in row {row} (transaction "
                f"{history['transaction_id'][row]}): stream {streamed[row, column]}, batch {batched[row, column]}"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{differ.sum():,} of {differ.size:,} values differ ({len(history):,} rows x {len(FEATURES)} features); "
        f"stream {len(history) / took:,.0f} rows/s, batch {len(history) / batch_took:,.0f} rows/s, peak {peak:,.0f} MiB"
    )
    return int(differ.any())


if __name__ == "__main__":
    sys.exit(main())
