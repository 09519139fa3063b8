"""Small histories and evaluations for the tests of the report, made under a seed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from training.evaluate import Evaluation, judge
from training.split import Period, Split
from training.thresholds import AlertsPerDay, Scored

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
INSTANT = pl.Datetime("us", "UTC")


def history(rows: int = 3_000, days: float = 30, fraud: float = 0.03, seed: int = 7, **columns: Any) -> pl.DataFrame:
    """A canonical frame; ``columns`` replaces any of its columns."""
    generator = np.random.default_rng(seed)
    micros = np.sort(generator.integers(0, int(days * 86_400_000_000), rows))
    is_fraud = generator.random(rows) < fraud
    kinds = generator.choice(["burst", "takeover"], rows)
    data: dict[str, Any] = {
        "transaction_id": [str(i) for i in range(rows)],
        "account_id": generator.integers(0, 60, rows).astype(str),
        "merchant_id": generator.integers(0, 90, rows).astype(str),
        "amount": generator.lognormal(8, 1, rows).astype(np.int64),
        "timestamp": [START + timedelta(microseconds=int(m)) for m in micros],
        "transaction_type": None,
        "location": None,
        "device_id": None,
        "is_fraud": is_fraud,
        "labelled_at": None,
        "fraud_scenario": [str(kind) if bad else None for kind, bad in zip(kinds, is_fraud, strict=True)],
        **columns,
    }
    return pl.DataFrame({name: _column(name, values, rows) for name, values in data.items()})


def _column(name: str, values: Any, rows: int) -> pl.Series:
    types: dict[str, Any] = {"amount": pl.Int64, "is_fraud": pl.Boolean, "timestamp": INSTANT, "labelled_at": INSTANT}
    return pl.Series(name, [None] * rows if values is None else values, types.get(name, pl.String))


def features(of: pl.DataFrame, seed: int = 3) -> pl.DataFrame:
    """Float32 columns of every kind: telling, falling, noise, half missing, constant, and without any value."""
    generator = np.random.default_rng(seed)
    fraud = of["is_fraud"].to_numpy()
    noise = generator.normal(size=(4, of.height))
    columns = {
        "telling": noise[0] + 1.5 * fraud,
        "falling": noise[1] - 2.0 * fraud,
        "noise": noise[2],
        "half_missing": np.where(generator.random(of.height) < 0.5, np.nan, noise[3] + fraud),
        "constant": np.ones(of.height),
        "empty": np.full(of.height, np.nan),
    }
    return pl.DataFrame({name: values.astype(np.float32) for name, values in columns.items()})


def evaluation(of: pl.DataFrame | None = None, *, budget: int = 3, **fields: Any) -> Evaluation:
    """Three candidates of falling quality on the last week of a history; ``fields`` replaces any field."""
    of = history() if of is None else of
    last = of["timestamp"].max()
    assert isinstance(last, datetime)
    midnight = last.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    test = Period(midnight - 7 * DAY, midnight)
    earlier = [Period(test.start - n * DAY, test.start - (n - 7) * DAY) for n in (28, 21, 14)]
    split = Split(START, earlier[0], earlier[1], earlier[2], test.start, test, 7 * DAY)
    held_out = of.filter(pl.lit(test.rows(of)))
    generator = np.random.default_rng(11)
    y = fields.get("y", held_out["is_fraud"].to_numpy())
    latent = np.where(y, 1.5, -3.0) + generator.normal(size=y.size)
    scores = {
        name: 1 / (1 + np.exp(-(latent + noise * generator.normal(size=y.size))))
        for name, noise in (("xgboost", 0.2), ("logistic_regression", 2.0), ("isolation_forest", 4.0))
    }
    candidates = fields.get("candidates", scores)
    champion = fields.get("champion", next(iter(candidates)))
    threshold = fields.get("threshold", float(np.sort(candidates[champion])[-7 * budget]))
    account, timestamp = held_out["account_id"].to_numpy(), held_out["timestamp"].dt.epoch("us").to_numpy()
    found = {
        name: judge(score, y, account=account, timestamp=timestamp, threshold=threshold, period=test)
        for name, score in candidates.items()
    }
    names = ("telling", "falling", "noise", "half_missing", "constant", "empty")
    values: dict[str, Any] = {
        "candidates": candidates,
        "champion": champion,
        "threshold": threshold,
        "rule": AlertsPerDay(budget),
        "validation": Scored(candidates[champion], y, held_out["amount"].to_numpy(), 7),
        "y": y,
        "amount": held_out["amount"].to_numpy(),
        "timestamp": timestamp,
        "account": account,
        "fraud_scenario": np.array(held_out["fraud_scenario"].to_list(), dtype=object),
        "features": np.zeros((y.size, len(names)), np.float32),
        "feature_names": names,
        "importances": dict(zip(names, (0.5, 0.3, 0.15, 0.05, 0.0, 0.0), strict=True)),
        "metrics": found,
        "split": split,
        **fields,
    }
    return Evaluation(**values)
