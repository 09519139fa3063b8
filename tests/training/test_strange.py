"""Strange histories, small: what is trained scores and is reported, and only a ``VigieError`` refuses the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.batch import compute
from features.definitions import feature_set
from features.errors import VigieError
from features.transaction import Transaction
from tests.features.live import Live, differing, frame
from training import fit
from training.export import score
from training.pipeline import Options, Trained, manifest, metrics_file, train
from training.progress import Stages
from training.report import render
from training.simulate import canonical
from training.split import DAY

DELAY = timedelta(hours=6)
SPECS = feature_set(DELAY)
OPTIONS = Options(label_delay=DELAY, validation_days=2, test_days=2, keep_compromised=True)
SHAPES = ("plain", "zero", "equal", "refunds", "huge", "one account", "one merchant", "all once", "silent", "shuffled")


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "XGBOOST_PARAMETERS", fit.XGBOOST_PARAMETERS | {"n_estimators": 3, "max_bin": 64})
    monkeypatch.setattr(fit, "FOREST_PARAMETERS", {"n_estimators": 4, "max_samples": 32})


def history(shape: str, seed: int) -> pl.DataFrame:
    """Some 12 days of 700 transactions, a fifth of them frauds of larger amounts."""
    rng = np.random.default_rng(seed)
    rows = 700
    seconds = np.sort(rng.integers(0, 12 * 86_400, rows))
    seconds[rows // 4 :] += 120 * 86_400 * (shape == "silent")
    fraud = rng.random(rows) < 0.2
    amount = np.round(rng.lognormal(3, 1, rows) * (1 + fraud), 2)
    special = {"zero": 0 * amount, "equal": 0 * amount + 7, "refunds": -amount, "huge": rng.choice([1e10, -1e10], rows)}
    raw = pl.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "account_id": np.zeros(rows, int) if shape == "one account" else rng.integers(0, 40, rows),
            "merchant_id": np.zeros(rows, int) if shape == "one merchant" else rng.integers(0, 40, rows),
            "amount": special.get(shape, amount),
            "timestamp": [datetime(2024, 3, 1, tzinfo=UTC) + timedelta(seconds=int(second)) for second in seconds],
            "transaction_type": rng.choice(["atm", "online"], rows),
            "is_fraud": fraud,
        }
    )
    if shape == "all once":
        raw = raw.with_columns(account_id="transaction_id", merchant_id="transaction_id")
    return canonical(raw.sample(fraction=1, shuffle=True, seed=seed) if shape == "shuffled" else raw)


def trained(of: pl.DataFrame) -> tuple[Trained, pl.DataFrame]:
    features = compute(of, SPECS)
    return train(of, features, OPTIONS, Stages()), features


@pytest.mark.parametrize("shape", SHAPES)
def test_a_strange_history_is_trained_and_reported(shape: str, tmp_path: Path) -> None:
    of = history(shape, 1)
    found, features = trained(of)
    scores, anomalies = score(found.graph, features.to_numpy())
    assert np.isfinite(scores).all()
    assert np.isfinite(anomalies).all()
    if shape in {"zero", "all once"}:  # a whole page takes half a second
        render(found.evaluation, of, features, tmp_path / "report.html")
    assert manifest(found, of, SPECS, OPTIONS).features == features.columns
    assert b"largest_difference" in metrics_file(found)


@pytest.mark.parametrize("seed", range(4))
def test_a_part_of_a_strange_history_is_trained_or_refused_with_reasons(seed: int) -> None:
    rng = np.random.default_rng(seed)
    of = history(SHAPES[int(rng.integers(len(SHAPES)))], seed)
    part = of.filter(pl.Series(rng.random(of.height) < rng.random()), pl.Series(~of["is_fraud"]) | (rng.random() < 0.5))
    if part.is_empty():
        return
    try:
        found, _ = trained(part)
    except VigieError as error:
        message = str(error)
    else:
        message = f"bring nothing, {found.evaluation.champion} was trained"
    assert "bring" in message


def test_a_new_type_location_and_device_score_alike_in_the_batch_and_in_the_stream() -> None:
    of = history("plain", 1)
    graph = trained(of)[0].graph
    start = int(of["timestamp"].dt.epoch("us")[-1])
    known = Transaction("k", "1", "2", 700, start + 1, "atm")
    new = [
        Transaction("a", "1", "2", 900, start + 2, "crypto", "Atlantis", "fridge"),
        Transaction("b", "1", "2", 900, start + 3, "crypto", "", "\x00"),
        Transaction("c", "someone new", "somewhere new", 900, start + 4, "cheque", "Mars", "abacus"),
    ]
    live = Live(SPECS, DAY)
    values = [live.arrive(record) for record in (known, *new)]
    batch = compute(frame([known, *new]), SPECS).to_numpy()
    for streamed, row in zip(values, batch, strict=True):
        assert streamed is not None
        assert not differing(SPECS, streamed, row)
    novel = [spec.name for spec in SPECS].index("account_transaction_type_new_30d")
    assert batch[:, novel].tolist()[1:3] == [1.0, 0.0]
    for outputs in score(graph, batch):
        assert np.isfinite(outputs).all()
        assert ((outputs >= 0) & (outputs <= 1)).all()
