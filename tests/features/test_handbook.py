"""The features that the Fraud Detection Handbook defines too, held against pandas' rolling windows.

The book (Le Borgne, Siblini, Lebichot, Bontempi: Reproducible Machine Learning for Credit Card Fraud Detection, 2022,
chapter 3.4) computes them as here below, with the current transaction inside the account's windows. Its windows are a
second implementation by other people: an oracle from outside.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]  # comes with MLflow, without its stubs
import polars as pl
import pytest

from features import batch
from features.definitions import DAY, FEATURES, LABEL_DELAY
from tests.features.live import SCHEMA

Values = npt.NDArray[np.float64]
WINDOWS = (1, 7, 30)


@pytest.fixture(scope="module")
def history() -> pl.DataFrame:
    """Ninety days of twenty accounts and thirty merchants, one transaction a second at the most (ties differ)."""
    rng = np.random.default_rng(2018)
    size = 6000
    seconds = np.sort(rng.choice(90 * 86_400, size, replace=False))
    # A compromised merchant's transactions are frauds for a while, as in the book: else the ratios would be near zero.
    merchant = rng.integers(0, 30, size)
    compromised = (merchant + seconds // (14 * 86_400)) % 5 == 0
    return pl.DataFrame(
        {
            "transaction_id": [f"{i}" for i in range(size)],
            "account_id": [f"{i}" for i in rng.integers(0, 20, size)],
            "merchant_id": [f"{i}" for i in merchant],
            "amount": np.rint(rng.gamma(2, 2500, size)).astype(np.int64),
            "timestamp": np.datetime64("2018-04-01T00:00:00", "us") + seconds.astype("timedelta64[s]"),
            "is_fraud": compromised & (rng.random(size) < 0.8),
        }
    ).with_columns(
        pl.col("timestamp").dt.replace_time_zone("UTC"),
        *(pl.lit(None, SCHEMA[name]).alias(name) for name in ("transaction_type", "location", "device_id")),
        labelled_at=pl.lit(None, SCHEMA["labelled_at"]),
    )


@pytest.fixture(scope="module")
def computed(history: pl.DataFrame) -> dict[str, Values]:
    frame = batch.compute(history)
    return {name: frame[name].to_numpy().astype(np.float64) for name in frame.columns}


@pytest.fixture(scope="module")
def table(history: pl.DataFrame) -> pd.DataFrame:
    columns = ("account_id", "merchant_id", "amount", "timestamp", "is_fraud")
    frame = pd.DataFrame({name: history[name].to_numpy() for name in columns})
    return frame.assign(amount=frame["amount"] / 100)


def rolling(table: pd.DataFrame, key: str, column: str, days: int, aggregate: str) -> Values:
    """The aggregate of the key's rows in (t - days, t], for each row."""
    parts = []
    for _, rows in table.groupby(key, sort=False):
        windows = rows.set_index("timestamp")[column].astype(float).rolling(f"{days}D")
        parts.append(pd.Series(getattr(windows, aggregate)().to_numpy(), index=rows.index))
    return np.asarray(pd.concat(parts).sort_index(), dtype=np.float64)


def test_an_accounts_count_and_mean_amount(table: pd.DataFrame, computed: dict[str, Values]) -> None:
    own = computed["amount"]
    for days in WINDOWS:
        count = computed[f"account_count_{days}d"] + 1
        np.testing.assert_array_equal(count, rolling(table, "account_id", "amount", days, "count"))
        mean = (computed[f"account_amount_sum_{days}d"] + own) / count
        np.testing.assert_allclose(mean, rolling(table, "account_id", "amount", days, "mean"), rtol=1e-6)


def test_a_merchants_count_and_fraud_ratio_behind_the_label_delay(
    table: pd.DataFrame, computed: dict[str, Values]
) -> None:
    delay = LABEL_DELAY // DAY
    for days in WINDOWS:
        counts, frauds = (
            rolling(table, "merchant_id", "is_fraud", delay + days, aggregate)
            - rolling(table, "merchant_id", "is_fraud", delay, aggregate)
            for aggregate in ("count", "sum")
        )
        ratio = np.divide(frauds, counts, out=np.zeros_like(frauds), where=counts > 0)
        suffix = f"{days}d_delay_{delay}d"
        np.testing.assert_array_equal(computed[f"merchant_count_{suffix}"], counts)
        np.testing.assert_array_equal(computed[f"merchant_fraud_count_{suffix}"], frauds)
        np.testing.assert_allclose(computed[f"merchant_fraud_ratio_{suffix}"], ratio, rtol=1e-6)
        assert ratio.max() > 0.5


def test_weekend_and_night(table: pd.DataFrame, computed: dict[str, Values]) -> None:
    np.testing.assert_array_equal(computed["weekend"], table["timestamp"].dt.day_of_week >= 5)
    np.testing.assert_array_equal(computed["night"], table["timestamp"].dt.hour <= 6)
    np.testing.assert_array_equal(computed["hour"], table["timestamp"].dt.hour)


def test_deviations_are_those_of_pandas_without_the_current_transaction(
    table: pd.DataFrame, computed: dict[str, Values]
) -> None:
    for days in WINDOWS:
        deviations = np.full(len(table), np.nan)
        for _, rows in table.groupby("account_id"):
            windows = rows.set_index("timestamp")["amount"].rolling(f"{days}D", closed="neither")
            deviations[rows.index] = windows.std().to_numpy()
        np.testing.assert_allclose(computed[f"account_amount_std_{days}d"], deviations, rtol=1e-6, atol=1e-9)


def test_the_book_and_these_features_meet_in_fourteen_columns() -> None:
    names = {feature.name for feature in FEATURES}
    for days in WINDOWS:
        assert {f"account_count_{days}d", f"account_amount_sum_{days}d"} <= names
        assert {f"merchant_count_{days}d_delay_7d", f"merchant_fraud_ratio_{days}d_delay_7d"} <= names
    assert {"weekend", "night"} <= names
