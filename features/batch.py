"""Features of a whole history at once, in polars; to the bit what ``features.state`` computes event by event.

Everything rests on one primitive, ``_arrived``: for every row, the running totals of its entity at the last of some
instants that is not after the row's own. The instants of plain windows are those at which an event moves past an offset
(``ts + offset``); a window is the difference between two such totals. Fraud labels and distinct values are intervals
instead, in which something counts: those begun less those ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import polars as pl

from features.definitions import FEATURES, OF_FIELD, OF_LABELS, Aggregate, Entity, Feature

_DAY = 86_400_000_000
_HOUR = 3_600_000_000
_ENTITY_ID = {Entity.ACCOUNT: "account_id", Entity.MERCHANT: "merchant_id"}


def compute(history: pl.DataFrame, features: Sequence[Feature] = FEATURES) -> pl.DataFrame:
    """Float32 [rows, features]: one column a feature, in the order given; rows as in ``history``; NaN = missing.

    ``history`` has the canonical columns (``features.history``), in any row order: ``amount`` in minor units,
    ``timestamp`` with microseconds, ``is_fraud`` and ``labelled_at`` (null: known by the time the delay is over).
    """
    columns: dict[str, pl.Series] = {}
    for entity in Entity:
        chosen = [f for f in features if f.entity is entity]
        if entity is Entity.TRANSACTION:
            frame = history.with_columns(_column("cents", 100.0, len(history))).select(
                _own(f).cast(pl.Float32).alias(f.name) for f in chosen
            )
            columns.update((series.name, series) for series in frame)
        elif chosen:
            columns.update(_of_entity(history, entity, chosen))
    return pl.DataFrame([columns[f.name] for f in features])


def _column(name: str, value: float, length: int) -> pl.Series:
    """A constant to divide by: polars multiplies by the reciprocal of a literal, which differs in the last bit."""
    return pl.Series(name, np.full(length, value))


def _own(feature: Feature) -> pl.Expr:
    instant = pl.col("timestamp").dt.epoch("us")
    hour = instant // _HOUR % 24
    match feature.aggregate:
        case Aggregate.AMOUNT:
            return pl.col("amount").cast(pl.Float64) / pl.col("cents")
        case Aggregate.HOUR:
            return hour
        case Aggregate.WEEKEND:
            return (instant // _DAY + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        case Aggregate.NIGHT:
            return hour <= 6
    raise ValueError(f"{feature.name}: {feature.aggregate} needs a window")


def _of_entity(history: pl.DataFrame, entity: Entity, features: Sequence[Feature]) -> dict[str, pl.Series]:
    instant = pl.col("timestamp").dt.epoch("us")
    events = (
        history.select(
            pl.col(_ENTITY_ID[entity]).rank("dense").alias("key"),
            instant.alias("t"),
            "amount",
            *{f.field for f in features if f.field is not None},
            pl.when("is_fraud").then(pl.col("labelled_at").dt.epoch("us").fill_null(instant)).alias("fraud_known"),
        )
        .with_row_index("row")
        .sort("key", "t", maintain_order=True)
    )
    back = events["row"].arg_sort()
    return {f.name: values.gather(back).alias(f.name) for f, values in _columns(events, features)}


def _columns(events: pl.DataFrame, features: Sequence[Feature]) -> Iterator[tuple[Feature, pl.Series]]:
    """Each feature's Float32 values for ``events``, which are sorted by key and time."""
    amount = pl.col("amount").cast(pl.Int128)
    running = events.select(
        "key",
        "t",
        n=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("key"),
        total=pl.col("amount").cum_sum().over("key"),
        squares=(amount * amount).cum_sum().over("key"),
        newest=pl.col("t"),
    )

    scales = (_column("cents", 100.0, len(events)), _column("micros", 1e6, len(events)))

    @cache
    def position(offset: int) -> pl.DataFrame:
        return _arrived(events, running.with_columns(pl.col("t") + offset))

    @cache
    def window(bounds: tuple[int, int]) -> pl.DataFrame:
        """What a window's aggregates are made of: n, total and squares in it, and the newest event before its end."""
        until, since = (position(offset) for offset in bounds)
        inside = until.select(pl.col(name) - since[name] for name in ("n", "total", "squares"))
        return inside.with_columns(events["t"], events["amount"], until["newest"], *scales)

    for feature in features:
        if feature.aggregate in OF_FIELD:
            values = _of_field(events, feature)
        elif feature.aggregate in OF_LABELS:
            n = window(feature.bounds)["n"] if feature.aggregate is Aggregate.FRAUD_RATIO else None
            values = _of_labels(events, feature, n)
        else:
            values = window(feature.bounds).select(_of_amounts(feature.aggregate)).to_series()
        yield feature, values.cast(pl.Float32).fill_null(float("nan"))


def _of_amounts(aggregate: Aggregate) -> pl.Expr:
    """The aggregate of n, total and squares; null where it is missing."""
    n, total, amount = pl.col("n"), pl.col("total"), pl.col("amount").cast(pl.Float64)
    mean = total.cast(pl.Float64) / n.cast(pl.Float64)
    # n * sum(x^2) - sum(x)^2, exact in integers, is n * (n - 1) times the sample variance.
    spread = n.cast(pl.Int128) * pl.col("squares") - total.cast(pl.Int128) * total.cast(pl.Int128)
    std = (spread.cast(pl.Float64) / (n * (n - 1)).cast(pl.Float64)).sqrt()
    match aggregate:
        case Aggregate.COUNT:
            return n
        case Aggregate.SUM:
            return total.cast(pl.Float64) / pl.col("cents")
        case Aggregate.MEAN:
            return pl.when(n > 0).then(mean / pl.col("cents"))
        case Aggregate.STD:
            return pl.when(n > 1).then(std / pl.col("cents"))
        case Aggregate.RATIO:
            return pl.when(total != 0).then(amount / mean)
        case Aggregate.ZSCORE:
            return pl.when((n > 1) & (spread > 0)).then((amount - mean) / std)
        case Aggregate.SINCE:
            return pl.when(n > 0).then((pl.col("t") - pl.col("newest")).cast(pl.Float64) / pl.col("micros"))
    raise ValueError(f"{aggregate} is not an aggregate of a window's amounts")


def _of_field(events: pl.DataFrame, feature: Feature) -> pl.Series:
    first, second = feature.bounds
    assert feature.field is not None
    valued = events.select("key", "t", value=feature.field).with_columns(known=pl.col("value").is_not_null())
    if feature.aggregate is Aggregate.NEW:
        of_value = valued.select(pl.struct("key", "value").rank("dense").alias("key"), "t", "known")
        last = _arrived(of_value, of_value.select("key", pl.col("t") + first, newest="t"))["newest"]
        absent = (last <= of_value["t"] - second).fill_null(True)
        return of_value.select(pl.when("known").then(absent)).to_series()
    # A value counts once: an event stands for its value until the next event with the same value takes over.
    following = pl.col("t").shift(-1).over("key", "value")
    return _active(
        events,
        valued.select(
            "key", "known", begin=pl.col("t") + first, end=pl.min_horizontal(pl.col("t") + second, following + first)
        ).filter("known"),
    )


def _of_labels(events: pl.DataFrame, feature: Feature, n: pl.Series | None) -> pl.Series:
    first, second = feature.bounds
    frauds = _active(
        events,
        events.select(
            "key", "fraud_known", begin=pl.max_horizontal(pl.col("t") + first, "fraud_known"), end=pl.col("t") + second
        ).drop_nulls("fraud_known"),
    )
    if n is None:
        return frauds
    return pl.select(pl.when(n > 0).then(frauds.cast(pl.Float64) / n.cast(pl.Float64)).otherwise(0.0)).to_series()


def _active(events: pl.DataFrame, intervals: pl.DataFrame) -> pl.Series:
    """How many of the key's intervals begin <= t < end, for every event."""
    intervals = intervals.filter(pl.col("begin") < pl.col("end"))

    def passed(edge: str) -> pl.Series:
        edges = intervals.select("key", t=edge).sort("key", "t")
        return _arrived(events, edges.with_columns(n=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("key")))["n"]

    return passed("begin") - passed("end")


def _arrived(events: pl.DataFrame, running: pl.DataFrame) -> pl.DataFrame:
    """For every event, the columns of its key's last row in ``running`` with ``running.t <= t``; 0 where none is.

    Both are sorted by key, then t. ``newest`` stays null where no row is.
    """
    # Sorted within each key, which polars cannot check when it joins by key.
    found = events.select("key", "t").join_asof(running, on="t", by="key", strategy="backward", check_sortedness=False)
    return found.drop("key", "t").with_columns(pl.exclude("newest").fill_null(0))
