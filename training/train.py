"""From a history to a model bundle: ``python -m training.train [DATA]``.

    load ▸ features ▸ split ▸ rehearse and choose ▸ fit ▸ evaluate ▸ export ▸ gate ▸ report ▸ publish ▸ track

Without DATA a history is simulated first. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from features.batch import compute
from features.bundle import METRICS, MODEL, REPORT, Manifest, publish
from features.definitions import LABEL_DELAY, Feature, feature_set, fingerprint, reach
from features.errors import InvalidSetting, VigieError
from features.transaction import microseconds, rfc3339
from training.calibration import Budget
from training.compare import Choice, choose, evaluate, judged_rows, training_rows
from training.evaluate import CARDS, Evaluation
from training.export import OPSET, build, verify
from training.fit import FOREST_PARAMETERS, ROUNDS, XGBOOST_PARAMETERS, Models, baseline, fit
from training.history import column_map, load
from training.progress import Stages
from training.report import figures, render
from training.simulate import STAGES as SIMULATION_STAGES
from training.simulate import Simulation, simulate, write
from training.split import DAY, Split, known_frauds, plan
from training.tracking import track, uri

DEFAULT_BUDGET: Final = Budget(alert_rate=0.005)
MODELS: Final = Path("artifacts/models")
SIMULATED: Final = Path("artifacts/simulated.parquet")
SIMULATION: Final = Simulation(accounts=2_000, days=120)
LIBRARIES: Final = ("numpy", "onnx", "onnxmltools", "onnxruntime", "polars", "scikit-learn", "xgboost-cpu")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a training depends on besides the history; None lets ``training.split.plan`` choose."""

    label_delay: timedelta = LABEL_DELAY
    as_of: datetime | None = None
    train_start: datetime | None = None
    train_days: int | None = None
    validation_days: int = 7
    test_days: int = 7
    budget: Budget = DEFAULT_BUDGET
    keep_compromised: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A model that has passed the gate, not yet published. ``graph`` is model.onnx, ``gap`` the gate's largest difference."""

    graph: bytes
    gap: float
    evaluation: Evaluation
    choice: Choice
    baseline: list[float | None]


def train(history: pl.DataFrame, features: pl.DataFrame, options: Options, stages: Stages) -> Trained:
    """Rehearses, fits, evaluates and exports; ``features`` are ``features.batch.compute`` of the canonical history.

    Raises ``InvalidHistory`` or ``InvalidSetting`` where the history or the options do not allow it, ``ExportRefused``
    where the graph does not score as the libraries do.
    """
    split = plan(
        history,
        label_delay=options.label_delay,
        reach=reach(feature_set(options.label_delay)),
        as_of=options.as_of,
        train_start=options.train_start,
        train_days=options.train_days,
        test_days=options.test_days,
        validation_days=options.validation_days,
    )
    names = tuple(features.columns)

    def judged(period: Period) -> Rows:
        return judged_rows(history, features, split, period, keep_compromised=options.keep_compromised)

    with stages.stage("Rehearsing on earlier days", ROUNDS) as advance:
        x, y = training_rows(history, features, split, split.rehearsal)
        rehearsed = fit(x, y, options.seed, advance)
    with stages.stage("Choosing champion and threshold"):
        validation = judged(split.validation)
        choice = choose(rehearsed, validation, options.budget)
    with stages.stage("Fitting the models", ROUNDS) as advance:
        x, y = training_rows(history, features, split, split.train)
        models = fit(x, y, options.seed, advance)
    with stages.stage("Evaluating on held-out days"):
        held_out = judged(split.test) if split.test else validation
        judged_models = models if split.test else rehearsed
        evaluation = evaluate(judged_models, choice, held_out, names=names, budget=options.budget, split=split)
    with stages.stage("Exporting, and comparing the graph with the libraries"):
        calibration = choice.calibrations[choice.champion]
        graph = build(models, choice.champion, calibration)
        gap = verify(graph, models, choice.champion, calibration, features=held_out.features, names=names)
    return Trained(graph, gap, evaluation, choice, baseline(x, y))
