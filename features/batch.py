"""Features of a whole history at once; to the bit what ``features.state`` computes event by event.

For each entity the rows are sorted by key and time, once, and cut between keys into chunks, which threads take in turn;
``features.formulas`` computes a chunk's features. Memory is that of the result (four bytes a value) and some columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.definitions import FEATURES, OF_LABELS, Aggregate, Entity, Feature
from features.formulas import MEASURES
from features.timeline import Keys, chunks
from features.windows import NEVER, UNDATED, Codes, Events

_DAY = 86_400_000_000
_HOUR = 3_600_000_000
_ENTITY_ID = {Entity.ACCOUNT: "account_id", Entity.MERCHANT: "merchant_id"}
_ROW, _HALF = np.uint64(0xFFFF_FFFF), np.uint64(32)  # polars numbers rows with 32 bits too


def compute(history: pl.DataFrame, features: Sequence[Feature] = FEATURES) -> pl.DataFrame:
    """Float32 [rows, features]: one column a feature, in the order given; rows as in ``history``; NaN = missing.

    ``history`` has the canonical columns (``features.history``), in any row order: ``amount`` in minor units,
    ``timestamp`` with microseconds, ``is_fraud`` and ``labelled_at`` (null: known by the time the delay is over).
    """
    columns: dict[str, pl.Series] = {}
    for entity in Entity:
        chosen = [f for f in features if f.entity is entity]
        if entity is Entity.TRANSACTION:
            hundred = pl.Series("hundred", np.full(len(history), 100.0))
            frame = history.with_columns(hundred).select(_own(f).cast(pl.Float32).alias(f.name) for f in chosen)
            columns.update((series.name, series) for series in frame)
        elif chosen:
            columns.update((series.name, series) for series in _of_entity(history, entity, chosen))
    return pl.DataFrame([columns[f.name] for f in features])


def _own(feature: Feature) -> pl.Expr:
    instant = pl.col("timestamp").dt.epoch("us")
    hour = instant // _HOUR % 24
    match feature.aggregate:
        case Aggregate.AMOUNT:
            # By a column: polars multiplies by the reciprocal of a literal, which differs in the last bit.
            return pl.col("amount").cast(pl.Float64) / pl.col("hundred")
        case Aggregate.HOUR:
            return hour
        case Aggregate.WEEKEND:
            return (instant // _DAY + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        case Aggregate.NIGHT:
            return hour <= 6
    raise ValueError(f"{feature.name}: {feature.aggregate} needs a window")


def _of_entity(history: pl.DataFrame, entity: Entity, features: Sequence[Feature]) -> list[pl.Series]:
    span = max(f.farthest for f in features)
    strange = [f.name for f in features if f.aggregate not in MEASURES]
    if strange:
        raise ValueError(f"{', '.join(strange)}: not an aggregate of an entity's events")
    results = [np.empty(len(history), np.float32) for _ in features]
    sorted_rows = _sorted(history, _ENTITY_ID[entity])
    events_of = _reader(history, features, span)

    def work(chunk: slice) -> None:
        keys, rows = sorted_rows[chunk] >> _HALF, (sorted_rows[chunk] & _ROW).astype(np.intp)
        events = events_of(keys, rows)
        # Where nothing is in a window, quotients are of zeros; the formulas put NaN there, or what is due.
        with np.errstate(divide="ignore", invalid="ignore"):
            for feature, result in zip(features, results, strict=True):
                result[rows] = MEASURES[feature.aggregate](events, feature).astype(np.float32)

    with ThreadPoolExecutor(pl.thread_pool_size()) as threads:
        for _ in threads.map(work, chunks(sorted_rows >> _HALF, span)):
            pass
    results.reverse()  # each array goes as its series comes, which is a copy
    return [pl.Series(f.name, results.pop()) for f in features]


def _reader(
    history: pl.DataFrame, features: Sequence[Feature], span: int
) -> Callable[[Keys, NDArray[np.intp]], Events]:
    """Gives the events of some keys and rows, with what the features need."""
    instants = history["timestamp"].dt.epoch("us").to_numpy()
    amounts = history["amount"].to_numpy()
    codes = {f.field: _codes(history, f.field) for f in features if f.field is not None}
    known = None
    if any(f.aggregate in OF_LABELS for f in features):
        labelled = pl.when("is_fraud").then(pl.col("labelled_at").dt.epoch("us").fill_null(UNDATED))
        known = history.select(labelled.fill_null(NEVER)).to_series().to_numpy()

    def events(keys: Keys, rows: NDArray[np.intp]) -> Events:
        return Events(
            keys,
            instants[rows],
            amounts[rows],
            reach=span,
            fraud_known=None if known is None else known[rows],
            codes={field: numbers[rows] for field, numbers in codes.items()},
        )

    return events


def _sorted(history: pl.DataFrame, key: str) -> Keys:
    """A number for each row, sorted by key, then time: its upper half is the key's code, its lower half the row."""
    numbers = _codes(history, key).astype(np.uint64)
    by_time = None if history["timestamp"].is_sorted() else history["timestamp"].arg_sort().to_numpy()
    if by_time is not None:
        numbers = numbers[by_time]
    numbers <<= _HALF
    numbers |= np.arange(len(numbers), dtype=np.uint64)
    numbers.sort()  # plain numbers sort several times faster than rows by two columns
    if by_time is not None:
        numbers = (numbers & ~_ROW) | by_time[numbers & _ROW]
    return numbers


def _codes(history: pl.DataFrame, column: str) -> Codes:
    """For each row, the first row (counted from 1) with the same value; 0 where it is missing."""
    first = pl.when(pl.col(column).is_not_null()).then(pl.col("row").first().over(column)).otherwise(0)
    return history.select(column).with_row_index("row", offset=1).select(first.cast(pl.UInt32)).to_series().to_numpy()
