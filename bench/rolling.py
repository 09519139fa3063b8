"""Features as pandas' rolling windows compute them: what most people would write, for ``bench.features`` to measure.

A window over labels is the difference of two windows that end now, as the Fraud Detection Handbook writes it (chapter
3.4). That is right only where each label is known when its delay is over. Two transactions of one account or merchant
at one instant are another difference: pandas lets the later row see the earlier one, and Vigie does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Final

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # comes with MLflow, without its stubs
import polars as pl
from numpy.typing import NDArray

from features.definitions import Aggregate, Entity, Feature

Floats = NDArray[np.float64]

KEYS: Final = {Entity.ACCOUNT: "account_id", Entity.MERCHANT: "merchant_id"}
_OF_FRAUDS: Final = {Aggregate.FRAUD_COUNT, Aggregate.FRAUD_RATIO}
_OF_AMOUNTS: Final = {Aggregate.SUM: "sum", Aggregate.MEAN: "mean", Aggregate.STD: "std"}


def expressible(history: pl.DataFrame, features: Sequence[Feature]) -> list[Feature]:
    """What a rolling window gives: counts, sums, means, deviations; frauds and their share where no label is late."""
    wait = history.filter("is_fraud").select((pl.col("labelled_at") - pl.col("timestamp")).max()).item()
    latest = wait or timedelta(0)
    return [
        f
        for f in features
        if (f.aggregate in _OF_AMOUNTS and f.entity in KEYS and not f.delay)
        or f.aggregate is Aggregate.COUNT
        or (f.aggregate in _OF_FRAUDS and f.delay >= latest)
    ]


def table_of(history: pl.DataFrame) -> pd.DataFrame:
    """The history as a data scientist has it in pandas: amounts in major units."""
    columns = ("account_id", "merchant_id", "amount", "timestamp", "is_fraud")
    table = pd.DataFrame({name: history[name].to_numpy() for name in columns})
    return table.assign(amount=table["amount"] / 100, is_fraud=table["is_fraud"].astype(float))


def compute(table: pd.DataFrame, features: Sequence[Feature]) -> dict[str, Floats]:
    """Each feature's name and values, [rows] in the order of ``table``."""
    values: dict[str, Floats] = {}
    for entity, key in KEYS.items():
        chosen = [f for f in features if f.entity is entity]
        if chosen:
            values |= _of_entity(table, key, chosen)
    return values


def _of_entity(table: pd.DataFrame, key: str, features: Sequence[Feature]) -> dict[str, Floats]:
    rows = table.sort_values([key, "timestamp"], kind="stable")
    groups = rows.set_index("timestamp").groupby(key)

    @cache
    def rolled(column: str, span: timedelta, closed: str, aggregate: str) -> Floats:
        windows = groups[column].rolling(span, closed=closed)
        found: Floats = getattr(windows, aggregate)().to_numpy()
        return np.nan_to_num(found) if aggregate in {"count", "sum"} else found  # pandas has no sum of nothing

    def behind(feature: Feature, column: str, aggregate: str) -> Floats:
        """The window that ends a delay ago: that of delay + window less that of the delay."""
        assert feature.window is not None
        whole, newest = feature.delay + feature.window, feature.delay
        return rolled(column, whole, "right", aggregate) - rolled(column, newest, "right", aggregate)

    def value(feature: Feature) -> Floats:
        assert feature.window is not None
        if feature.aggregate in _OF_AMOUNTS:
            return rolled("amount", feature.window, "neither", _OF_AMOUNTS[feature.aggregate])
        if feature.aggregate is Aggregate.COUNT:
            if not feature.delay:
                return rolled("amount", feature.window, "neither", "count")
            return behind(feature, "amount", "count")
        frauds = behind(feature, "is_fraud", "sum")
        if feature.aggregate is Aggregate.FRAUD_COUNT:
            return frauds
        counts = behind(feature, "amount", "count")
        return np.divide(frauds, counts, out=np.zeros_like(frauds), where=counts > 0)

    place = np.empty(len(rows), np.intp)
    place[rows.index.to_numpy()] = np.arange(len(rows))
    return {feature.name: value(feature)[place] for feature in features}
