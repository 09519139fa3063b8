"""The training itself: from a history and its features to a model that has passed the gate, and what describes it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Final

import msgspec
import polars as pl

from features.bundle import Manifest
from features.definitions import LABEL_DELAY, Feature, feature_set, fingerprint, reach
from features.transaction import microseconds, rfc3339
from training.compare import Choice, Rows, choose, evaluate, judged_rows, training_rows
from training.evaluate import Evaluation
from training.export import OPSET, build, verify
from training.fit import FOREST_PARAMETERS, HONEST_ROWS, ROUNDS, XGBOOST_PARAMETERS, fit
from training.progress import Stages
from training.shortage import require_enough
from training.split import Period, Split, known_frauds, plan
from training.thresholds import AlertRate, Rule

DEFAULT_RULE: Final = AlertRate(0.005)
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
    rule: Rule = DEFAULT_RULE
    keep_compromised: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A model that passed the gate. ``graph`` is model.onnx, ``gap`` its largest difference from the libraries."""

    graph: bytes
    gap: float
    evaluation: Evaluation
    choice: Choice


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
    require_enough(history, split, keep_compromised=options.keep_compromised)
    names = tuple(features.columns)

    def judged(period: Period) -> Rows:
        return judged_rows(history, features, split, period, keep_compromised=options.keep_compromised)

    with stages.stage("Rehearsing on earlier days", ROUNDS) as advance:
        x, y = training_rows(history, features, split, split.rehearsal, seed=options.seed)
        rehearsed = fit(x, y, options.seed, advance)
    with stages.stage("Choosing champion and threshold"):
        validation = judged(split.validation)
        choice = choose(rehearsed, validation, options.rule)
    with stages.stage("Fitting the models", ROUNDS) as advance:
        x, y = training_rows(history, features, split, split.train, seed=options.seed)
        models = fit(x, y, options.seed, advance)
    with stages.stage("Evaluating on held-out days"):
        held_out = judged(split.test) if split.test else validation
        judged_models = models if split.test else rehearsed
        evaluation = evaluate(judged_models, choice, held_out, names=names, split=split)
    with stages.stage("Exporting, and comparing the graph with the libraries"):
        calibration = choice.calibrations[choice.champion]
        graph = build(models, choice.champion, calibration)
        gap = verify(graph, models, choice.champion, calibration, features=held_out.features, names=names)
    return Trained(graph, gap, evaluation, choice)


def manifest(trained: Trained, history: pl.DataFrame, features: Sequence[Feature], options: Options) -> Manifest:
    """The manifest of a trained model; its version is the instant of its making and the start of its checksum."""
    evaluation, split = trained.evaluation, trained.evaluation.split
    made = datetime.now(UTC)
    used = history.filter(pl.col("timestamp") < split.as_of)
    first, last = used["timestamp"][0], used["timestamp"][-1]
    return Manifest(
        version=f"{made:%Y%m%dT%H%M%SZ}-{hashlib.sha256(trained.graph).hexdigest()[:8]}",
        created_at=rfc3339(microseconds(made)),
        features=[f.name for f in features],
        fingerprint=fingerprint(features),
        label_delay_seconds=int(options.label_delay.total_seconds()),
        threshold=evaluation.threshold,
        alert_budget=evaluation.budget,
        champion=evaluation.champion,
        data_from=rfc3339(microseconds(first)),
        data_until=rfc3339(microseconds(last)),
        rows=used.height,
        frauds=int(known_frauds(used, split.as_of, split.label_delay).sum()),
        libraries={name: version(name) for name in LIBRARIES},
        opset=OPSET,
        metrics={k: v for k, v in evaluation.metrics[evaluation.champion].items() if math.isfinite(v)},
    )


def metrics_file(trained: Trained) -> bytes:
    """metrics.json: the metrics of all candidates on held-out and validation days (null: no value), and the split."""
    evaluation = trained.evaluation
    content = {
        "champion": evaluation.champion,
        "threshold": evaluation.threshold,
        "alert_budget": evaluation.budget,
        "held_out": evaluation.metrics,
        "validation": trained.choice.metrics,
        "split": dict(evaluation.split.describe()),
        "importances": evaluation.importances,
        "largest_difference_onnx_library": trained.gap,
    }
    return msgspec.json.format(msgspec.json.encode(content))


def parameters(trained: Trained, history: pl.DataFrame, options: Options) -> dict[str, object]:
    """What a tracker should know of how a model was made."""
    split: Split = trained.evaluation.split
    return {
        "champion": trained.evaluation.champion,
        "threshold": trained.evaluation.threshold,
        "alert_budget": options.rule,
        "transactions": history.height,
        "honest_rows_at_most": HONEST_ROWS,
        "label_delay": options.label_delay,
        "keep_compromised": options.keep_compromised,
        "seed": options.seed,
        **{
            f"split.{period}": getattr(split, period)
            for period in ("rehearsal", "validation", "train", "as_of", "test")
        },
        **{f"xgboost.{name}": value for name, value in XGBOOST_PARAMETERS.items()},
        **{f"isolation_forest.{name}": value for name, value in FOREST_PARAMETERS.items()},
    }
