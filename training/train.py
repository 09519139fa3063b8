"""From a history to a model bundle: ``python -m training.train [DATA]``.

    load, features, split, rehearse and choose, fit, evaluate, export, gate, report, publish, track

Without DATA a history is simulated first. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import polars as pl
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from features.batch import compute
from features.bundle import METRICS, MODEL, REPORT, Manifest, publish
from features.definitions import LABEL_DELAY, Feature, feature_set, fingerprint, reach
from features.errors import InvalidSetting, VigieError
from features.transaction import microseconds, rfc3339
from training.calibration import Budget
from training.compare import Choice, Rows, choose, evaluate, judged_rows, training_rows
from training.evaluate import CARDS, Evaluation
from training.export import OPSET, build, verify
from training.fit import FOREST_PARAMETERS, HONEST_ROWS, ROUNDS, XGBOOST_PARAMETERS, baseline, fit
from training.history import column_map, load
from training.progress import Stages
from training.report import figures, render
from training.simulate import STAGES as SIMULATION_STAGES
from training.simulate import Simulation, simulate, write
from training.split import DAY, Period, Split, known_frauds, plan
from training.tracking import track, uri

DEFAULT_BUDGET: Final = Budget(alert_rate=0.005)
MODELS: Final = Path("artifacts/models")
SIMULATED: Final = Path("artifacts/simulated.parquet")
SIMULATION: Final = Simulation(accounts=2_000, days=120)
SHOWN: Final = (
    "auc_roc",
    "average_precision",
    f"card_precision_{CARDS}",
    "recall_at_budget",
    "precision_at_budget",
)
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
    """A model that passed the gate. ``graph`` is model.onnx, ``gap`` its largest difference from the libraries."""

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
        baseline=trained.baseline,
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


def run(arguments: argparse.Namespace, console: Console) -> Path:
    """Trains by the command's arguments, publishes, reports and tracks; the bundle's folder. Raises ``VigieError``."""
    columns = column_map(arguments.columns, arguments.column)
    options = _options(arguments)
    specs = feature_set(options.label_delay)
    with Stages() as stages:
        data: Path = arguments.data or _simulated(stages)
        with stages.stage(f"Loading {data.name}"):
            history = load(data, columns)
        with stages.stage(f"Computing {len(specs)} features of {history.height:,} transactions"):
            features = compute(history, specs)
        trained = train(history, features, options, stages)
        evaluation = trained.evaluation
        with stages.stage("Writing the report"), tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / REPORT
            render(evaluation, history, features, page)
            report = page.read_bytes()
        described = manifest(trained, history, specs, options)
        files = {MODEL: trained.graph, METRICS: metrics_file(trained), REPORT: report}
        bundle = publish(arguments.models, described, files)
        tracked = False
        if not arguments.no_tracking:
            with stages.stage(f"Logging the run to {uri()}"):
                tracked = track(
                    described.version,
                    parameters=_parameters(trained, history, options),
                    metrics=evaluation.metrics,
                    figures=figures(evaluation),
                    bundle=bundle,
                )
    _print(trained, bundle, console)
    if tracked:
        console.print(f"MLflow run  {described.version} in {uri()}")
    return bundle


def _simulated(stages: Stages) -> Path:
    with stages.stage(f"Simulating {SIMULATION.accounts:,} accounts", SIMULATION_STAGES) as advance:
        write(simulate(SIMULATION, advance), SIMULATED)
    return SIMULATED


def _options(arguments: argparse.Namespace) -> Options:
    if not 0 < arguments.label_delay <= 365:
        raise InvalidSetting(f"--label-delay {arguments.label_delay} must be more than 0 and at most 365 days")
    asked = arguments.alerts_per_day, arguments.alert_rate
    return Options(
        label_delay=arguments.label_delay * DAY,
        as_of=arguments.as_of,
        train_start=arguments.train_start,
        train_days=arguments.train_days,
        validation_days=arguments.validation_days,
        test_days=arguments.test_days,
        budget=DEFAULT_BUDGET if asked == (None, None) else Budget(*asked),
        keep_compromised=arguments.keep_compromised,
        seed=arguments.seed,
    )


def _parameters(trained: Trained, history: pl.DataFrame, options: Options) -> dict[str, object]:
    split: Split = trained.evaluation.split
    return {
        "champion": trained.evaluation.champion,
        "threshold": trained.evaluation.threshold,
        "alert_budget": options.budget,
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


def _print(trained: Trained, bundle: Path, console: Console) -> None:
    evaluation = trained.evaluation
    days = "Test" if evaluation.split.test else "Validation"
    title = (
        f"{days} {evaluation.split.held_out}, {len(evaluation.y):,} transactions, {int(evaluation.y.sum()):,} frauds"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("candidate", no_wrap=True)
    for column in ("AUC ROC", "AP", f"CP@{CARDS}", "recall", "prec.", "alerts/day"):
        table.add_column(column, justify="right")
    for name, metrics in evaluation.metrics.items():
        style = "bold" if name == evaluation.champion else None
        shown = ["-" if math.isnan(metrics[key]) else f"{metrics[key]:.3f}" for key in SHOWN]
        table.add_row(name, *shown, f"{metrics['alerts_per_day']:.1f}", style=style)
    console.print(table)
    console.print(f"Champion    {evaluation.champion}: alert from a score of {evaluation.threshold:.4f} on")
    console.print(f"Budget      {evaluation.budget}: recall and precision are at each candidate's threshold for it")
    console.print(f"ONNX        at most {trained.gap:.1e} from the libraries' scores")
    console.print(f"Bundle      {bundle}")
    console.print(f"Report      {bundle / REPORT}")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(prog="python -m training.train", description="From a history to a model bundle.")
    add = command.add_argument
    add("data", nargs="?", type=Path, help="a history, .parquet or .csv; simulated if it is left out")
    add("--columns", type=Path, metavar="FILE", help="map of column names, such as training/columns/kaggle.toml")
    add("--column", action="append", default=[], metavar="NAME=COLUMN", help="one mapped column name; may be repeated")
    add("--as-of", type=_instant, metavar="T", help="use only what was known at T; test on the days after it")
    add("--train-start", type=_instant, metavar="T", help="first day to learn from")
    add("--train-days", type=int, metavar="N", help="how many days to learn from (default: up to 90)")
    add("--validation-days", type=int, default=7, metavar="N", help="days for calibration and threshold (default: 7)")
    add("--test-days", type=int, default=7, metavar="N", help="days to test on (default: 7)")
    add(
        "--label-delay",
        type=float,
        default=LABEL_DELAY / DAY,
        metavar="DAYS",
        help="until labels are known (default: 7)",
    )
    budget = command.add_mutually_exclusive_group()
    budget.add_argument("--alerts-per-day", type=float, metavar="N", help="alert budget: N alerts a day")
    budget.add_argument("--alert-rate", type=float, metavar="R", help="alert budget: a share (default: 0.005)")
    add("--keep-compromised", action="store_true", help="judge on accounts already known as compromised, too")
    add("--seed", type=int, default=0, help="for what is drawn at random (default: 0)")
    add("--models", type=Path, default=MODELS, metavar="DIR", help=f"where bundles go (default: {MODELS})")
    add("--no-tracking", action="store_true", help="do not log the run to MLflow")
    return command


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day or an instant such as 2018-08-08") from error
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 where the input or the options do not allow it."""
    parsed = parser().parse_args(arguments)
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    try:
        run(parsed, Console(highlight=False, soft_wrap=True))
    except VigieError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
