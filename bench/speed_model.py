"""The model of the speed benchmark: an ordinary bundle, and beside it the booster for who does not use the graph."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl

from bench.traffic import Traffic
from features.batch import compute
from features.bundle import MODEL, Manifest, load, publish
from features.definitions import LABEL_DELAY, Feature, feature_set, fingerprint, reach
from training.calibration import calibrate
from training.compare import judged_rows, training_rows
from training.export import OPSET, build, score, verify
from training.fit import XGBOOST, Matrix, fit
from training.simulate import Simulation, canonical, simulate
from training.split import Split, plan

SIMULATION: Final = Simulation(accounts=400, days=120, intensity=4)
ALERTS: Final = 1 / 200  # of the benchmark's traffic
SETTLED: Final = 20_000  # transactions whose scores the threshold is chosen on, after as many that fill windows
FOLDER: Final = Path(".cache/bench/models")
BOOSTER: Final = "booster.json"
CALIBRATION: Final = "calibration.json"


def model(traffic: Traffic, given: Path | None = None) -> Path:
    """The folder of the bundle: the one given, or one that is trained on a simulated history, once for its features.

    The threshold is such that one in 200 transactions of the benchmark's traffic is an alert.
    """
    if given is not None:
        load(given)
        return given
    features = feature_set()
    there = FOLDER / f"{fingerprint(features)}-{traffic.accounts}" / "current"
    if not there.exists():
        _train(features, traffic, there.parent)
    return there


def truth(bundle: Path, traffic: Traffic, n: int) -> list[float]:
    """The scores of the first n transactions: the batch's features, the bundle's graph."""
    read = load(bundle)
    scores, _ = score(read.model, _matrix(traffic.history(n), read.features))
    found: list[float] = scores.astype(float).tolist()
    return found


def _matrix(history: pl.DataFrame, features: tuple[Feature, ...]) -> Matrix:
    return np.ascontiguousarray(compute(history, features).to_numpy(), np.float32)


def _train(features: tuple[Feature, ...], traffic: Traffic, models: Path) -> None:
    history = canonical(simulate(SIMULATION))
    computed = compute(history, features)
    split: Split = plan(history, label_delay=LABEL_DELAY, reach=reach(features))
    fitted = fit(*training_rows(history, computed, split, split.rehearsal, seed=0))
    validation = judged_rows(history, computed, split, split.validation, keep_compromised=True)
    calibration = calibrate(fitted.margin(XGBOOST, validation.features), validation.y)
    graph = build(fitted, XGBOOST, calibration)
    names = tuple(f.name for f in features)
    verify(graph, fitted, XGBOOST, calibration, features=validation.features, names=names)
    scores, _ = score(graph, _matrix(traffic.history(2 * SETTLED), features)[SETTLED:])
    manifest = Manifest(
        version="speed",
        created_at="2026-01-01T00:00:00Z",
        features=list(names),
        fingerprint=fingerprint(features),
        label_delay_seconds=LABEL_DELAY // timedelta(seconds=1),
        threshold=float(np.quantile(scores, 1 - ALERTS)),
        alert_budget="one in 200 of the benchmark's traffic",
        champion=XGBOOST,
        data_from=str(history["timestamp"][0]),
        data_until=str(history["timestamp"][-1]),
        rows=history.height,
        frauds=int(history["is_fraud"].sum()),
        libraries={},
        opset=OPSET,
        metrics={},
    )
    booster = fitted.xgboost.get_booster()
    booster.feature_names = list(names)
    files = {
        MODEL: graph,
        BOOSTER: bytes(booster.save_raw("json")),
        CALIBRATION: msgspec.json.encode({"slope": calibration.slope, "intercept": calibration.intercept}),
    }
    publish(models, manifest, files)
