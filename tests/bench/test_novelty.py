"""A kind of fraud that is held out is nowhere before the test, and what is found of it is counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from bench import novelty
from bench.novelty import SHARED, compare, measure, share_alerts
from features.errors import InvalidHistory
from tests.training.fitted import simulated
from training.compare import Rows
from training.fit import FOREST, LOGISTIC, XGBOOST, Matrix
from training.progress import Stages
from training.split import DAY, Period
from training.thresholds import AlertRate

RULE = AlertRate(0.1)


def test_the_shared_budget_is_spent_in_full_and_on_nothing_twice() -> None:
    scores = np.arange(100.0)
    shared = share_alerts(scores, scores, 10)
    assert np.flatnonzero(shared).tolist() == list(range(90, 100))  # both agree, so the anomaly score goes on below
    shared = share_alerts(scores, -scores, 10)
    assert np.flatnonzero(shared).tolist() == [0, 1, *range(92, 100)]


def test_what_is_found_of_a_kind_is_counted() -> None:
    kind = np.array(["new"] * 4 + ["old"] * 4 + [None] * 92, dtype=object)
    row = np.arange(100)
    start = pl.datetime(2024, 1, 1, time_zone="UTC")
    begin = pl.select(start).item()
    rows = Rows(Period(begin, begin + DAY), np.zeros((100, 1), np.float32), row < 8, row, row, row, kind)
    others = np.linspace(0, -1, 100)
    margins = {
        XGBOOST: np.where((row >= 4) & (row < 8), np.ones(100), others),  # the old, then the new, then all others
        LOGISTIC: row * 1.0,
        FOREST: np.where(row < 2, 200.0, row),
    }
    found = compare("new", rows, margins, AlertRate(0.05), 0.75)
    assert (found.frauds, found.others, found.seen_found) == (4, 4, 0.75)
    assert found.found == {XGBOOST: 0.25, LOGISTIC: 0.0, FOREST: 0.5, SHARED: 0.25}
    assert found.known_found == {XGBOOST: 1.0, LOGISTIC: 0.0, FOREST: 0.0, SHARED: 1.0}
    assert found.auc_roc[XGBOOST] == 1.0
    assert found.auc_roc[LOGISTIC] == 0.0


def test_a_kind_held_out_is_nowhere_before_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[pl.DataFrame] = []
    fitted: list[int] = []

    def compute(history: pl.DataFrame) -> pl.DataFrame:
        seen.append(history)
        return history.select(pl.col("amount").cast(pl.Float32))

    def fit(_: Matrix, y: np.ndarray, __: int) -> SimpleNamespace:
        fitted.append(int(y.sum()))
        return SimpleNamespace(margin=lambda _, rows: rows[:, 0].astype(np.float64))

    monkeypatch.setattr(novelty, "compute", compute)
    monkeypatch.setattr(novelty, "fit", fit)
    history, _ = simulated()
    found = measure(history, RULE, Stages(), test_days=14)
    kinds = sorted(history["fraud_scenario"].drop_nulls().unique())
    assert [one.kind for one in found] == kinds
    test = history["timestamp"].dt.truncate("1d").max() - 13 * DAY  # type: ignore[operator]
    assert seen[0].equals(history)
    for kind, without in zip(kinds, seen[1:], strict=True):
        held_out = pl.col("fraud_scenario").eq_missing(kind)
        assert without.filter(held_out)["timestamp"].min() >= test  # type: ignore[operator]
        assert without.filter(~held_out).equals(history.filter(~held_out))
        assert without.filter(pl.col("timestamp") >= test).equals(history.filter(pl.col("timestamp") >= test))
    assert max(fitted[1:]) < fitted[0]
    assert sum(one.frauds for one in found) > 0


def test_a_history_of_one_kind_is_refused() -> None:
    history, _ = simulated()
    one = history.filter(pl.col("fraud_scenario").is_null() | (pl.col("fraud_scenario") == "card_theft"))
    with pytest.raises(InvalidHistory, match="names 1 kinds of fraud"):
        measure(one, RULE, Stages(), test_days=7)
