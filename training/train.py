"""From a history to a model bundle: ``python -m training.train [DATA]``.

    load, features, split, rehearse and choose, fit, evaluate, export, gate, report, publish, track

Without DATA a history is simulated first. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from features.batch import compute
from features.bundle import METRICS, MODEL, REPORT, publish
from features.definitions import LABEL_DELAY, feature_set
from features.errors import InvalidSetting, VigieError
from features.history import column_map, load
from training import quality
from training.evaluate import CARDS
from training.figures_examples import Explained
from training.pipeline import DEFAULT_RULE, Options, Trained, manifest, metrics_file, parameters, train
from training.progress import Stages
from training.report import figures, render
from training.simulate import STAGES as SIMULATION_STAGES
from training.simulate import Simulation, simulate, write
from training.split import DAY
from training.thresholds import AlertRate, AlertsPerDay, LeastCost, Rule
from training.tracking import track, uri

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


def run(arguments: argparse.Namespace, console: Console) -> Path:
    """Trains by the command's arguments, publishes, reports and tracks; the bundle's folder. Raises ``VigieError``."""
    columns = column_map(arguments.columns, arguments.column)
    options = _options(arguments)
    try:
        arguments.models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"--models {arguments.models}: {error.strerror}; give a folder for bundles") from error
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
            explained = Explained(trained.graph, specs, history)
            render(evaluation, history, features, page, explained=explained, quality=quality.FILE)
            report = page.read_bytes()
        described = manifest(trained, history, specs, options)
        files = {MODEL: trained.graph, METRICS: metrics_file(trained), REPORT: report}
        bundle = publish(arguments.models, described, files)
        tracked = False
        if not arguments.no_tracking:
            with stages.stage(f"Logging the run to {uri()}"):
                tracked = track(
                    described.version,
                    parameters=parameters(trained, history, options),
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
    if not 0 <= arguments.seed < 2**32:
        raise InvalidSetting(f"--seed {arguments.seed} must be a whole number from 0 to {2**32 - 1}")
    return Options(
        label_delay=timedelta(seconds=max(1, round(arguments.label_delay * DAY.total_seconds()))),
        as_of=arguments.as_of,
        train_start=arguments.train_start,
        train_days=arguments.train_days,
        validation_days=arguments.validation_days,
        test_days=arguments.test_days,
        rule=_rule(arguments),
        keep_compromised=arguments.keep_compromised,
        seed=arguments.seed,
    )


def _rule(arguments: argparse.Namespace) -> Rule:
    """What the threshold is to be chosen for; the command takes at most one of the three."""
    if arguments.alerts_per_day is not None:
        return AlertsPerDay(arguments.alerts_per_day)
    if arguments.alert_rate is not None:
        return AlertRate(arguments.alert_rate)
    return DEFAULT_RULE if arguments.review_cost is None else LeastCost(arguments.review_cost)


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
    if isinstance(evaluation.rule, LeastCost):
        costs = evaluation.metrics[evaluation.champion]
        cost, without, saved = costs["cost"], costs["cost_without_alerts"], costs["saved"]
        console.print(
            f"Saved       {saved:,.2f}: {cost:,.2f} instead of {without:,.2f} without any alert, on {days.lower()} days"
        )
    console.print(f"ONNX        at most {trained.gap:.1e} from the libraries' scores")
    console.print(f"Bundle      {bundle}")
    console.print(f"Report      {bundle / REPORT}")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(prog="python -m training.train", description="From a history to a model bundle.")
    add = command.add_argument
    add("data", nargs="?", type=Path, help="a history, .parquet or .csv; simulated if it is left out")
    add("--columns", type=Path, metavar="FILE", help="map of column names, such as features/columns/kaggle.toml")
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
    budget.add_argument(
        "--review-cost", type=float, metavar="C", help="least cost of reviews (C each) and missed frauds"
    )
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
    if not 1970 <= instant.year < 2200:
        raise argparse.ArgumentTypeError(f"{text!r} is not within the years 1970 to 2199")
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
