"""Our models beside the Handbook's and beside what it published, by its protocol.

    python -m bench.quality [DATA]

On four test weeks and, in a table of their own, the four validation weeks before them: the book's models on its 15
features; what ``just train`` makes as of each week, from the same seven days and from all the days that it takes by
itself; and XGBoost on the book's features and on those same days, which is what ours has to beat on any history.
Without DATA a history is simulated. Published figures are shown where the history is the Handbook's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl
from msgspec import structs
from rich.console import Console

from bench.ablation import ablate
from bench.book_features import columns
from bench.contest import Contest, book_models, our_models, to_beat
from bench.outcome import Block, Judge, Outcome, Part, as_file, collect
from bench.published import Published, PublishedRow, published
from bench.quality_tables import WIDTH, show
from bench.search import combinations, search
from bench.weeks import WEEK, weeks
from features.batch import compute
from features.definitions import LABEL_DELAY, feature_set
from features.errors import InvalidSetting, VigieError
from features.history import column_map, load
from training import quality
from training.progress import Stages
from training.simulate import STAGES as SIMULATION_STAGES
from training.simulate import Simulation, canonical, simulate
from training.split import DAY

SIMULATION: Final = Simulation(accounts=500, days=120)


def run(arguments: argparse.Namespace, console: Console) -> Outcome:
    """Compares by the command's arguments, prints and writes the JSON. Raises ``VigieError``."""
    if not 0 <= arguments.seed < 2**32:
        raise InvalidSetting(f"--seed {arguments.seed} must be a whole number from 0 to {2**32 - 1}")
    if arguments.out.is_dir():
        raise InvalidSetting(f"--out {arguments.out} is a folder; name a file in it")
    source = published()
    with Stages() as stages:
        name, history = _history(arguments, stages)
        handbook = source.history.is_this(history)
        delay = timedelta(days=arguments.label_delay)
        chosen = weeks(history, delay, source.history.opening if handbook else None)
        with stages.stage(f"Computing the features of {history.height:,} transactions"):
            contest = Contest(
                history, compute(history, feature_set(delay)), columns(history, delay), chosen, arguments.seed
            )
        outcome = _compare(
            name, contest, _baselines(source, arguments, handbook=handbook), arguments, stages, handbook=handbook
        )
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_bytes(as_file(outcome).encoded())
    except OSError as error:
        raise InvalidSetting(f"--out {arguments.out}: {error.strerror}; name a file that can be written") from error
    show(outcome, console, verbose=arguments.verbose)
    _show_notes(outcome, console)
    console.print(f"JSON        {arguments.out}")
    return outcome


def _history(arguments: argparse.Namespace, stages: Stages) -> tuple[str, pl.DataFrame]:
    if arguments.data is not None:
        with stages.stage(f"Loading {arguments.data.name}"):
            return arguments.data.name, load(arguments.data, column_map(arguments.columns, arguments.column))
    spec = replace(
        SIMULATION,
        accounts=arguments.simulated_accounts,
        days=arguments.simulated_days,
        seed=arguments.simulated_seed,
    )
    name = f"simulated, {spec.accounts:,} accounts, {spec.days} days, seed {spec.seed}"
    with stages.stage(f"Simulating {spec.accounts:,} accounts", SIMULATION_STAGES) as advance:
        return name, canonical(simulate(spec, advance))


def _baselines(source: Published, arguments: argparse.Namespace, *, handbook: bool) -> list[PublishedRow]:
    """The published rows to show. What was best on the Handbook's own test weeks says nothing on other data."""
    rows = [row for row in source.rows if handbook or (row.learner and (row.validation or row.block == "chapter_3"))]
    if arguments.bagging:
        return rows
    # Shown as published, not fitted.
    return [structs.replace(row, learner=None) if row.learner == "balanced_bagging" else row for row in rows]


def _compare(
    name: str,
    contest: Contest,
    baselines: list[PublishedRow],
    arguments: argparse.Namespace,
    stages: Stages,
    *,
    handbook: bool,
) -> Outcome:
    chapter_3 = [row for row in baselines if row.block == "chapter_3"]
    tuned = [row for row in baselines if row.block == "four_weeks" and row.validation]
    best = [row for row in baselines if row.block == "four_weeks" and not row.validation]
    found = contest.weeks
    if arguments.search:
        with stages.stage("Choosing the book's parameters", combinations(tuned) * len(found.validation)) as advance:
            tuned = search(contest, tuned, advance)

    def judged(
        title: str, starts: Sequence[datetime], rows: list[PublishedRow], part: Part, more: list[Judge]
    ) -> Block:
        judges: list[Judge] = [partial(book_models, contest, rows=[row for row in rows if row.learner]), *more]
        with stages.stage(title, len(judges) * len(starts)) as advance:
            return collect(title, starts, judges, published=rows if handbook else [], part=part, advance=advance)

    field: list[Judge] = [
        partial(to_beat, contest),
        partial(our_models, contest, train_days=WEEK // DAY),
        partial(our_models, contest),
    ]
    single = judged("Chapter 3", found.test[:1], chapter_3, "test", [])
    test = judged("Test weeks", found.test, [*tuned, *best], "test", field)
    validation = None
    if found.validation:
        shown = [*tuned, *(structs.replace(row, learner=None) for row in chapter_3 if row.validation)]
        validation = judged("Validation weeks", found.validation, shown, "validation", field)
    parts: list[quality.Ablated] = []
    if arguments.ablation:
        with stages.stage("Leaving groups of features out", len(found.validation)) as advance:
            parts = ablate(contest, feature_set(found.label_delay), advance)
    return Outcome(
        contest=contest,
        name=name,
        handbook=handbook,
        searched=arguments.search,
        chapter_3=single,
        test=test,
        validation=validation,
        baselines=[*chapter_3, *tuned, *best],
        ablation=parts,
    )


def _show_notes(outcome: Outcome, console: Console) -> None:
    days = len(outcome.contest.weeks.validation)
    if not days:
        console.print("No validation week fits in this history; a longer one has them")
    how = "searched on the validation weeks here" if outcome.searched else "those published, chosen on the book's data"
    console.print(f"Book's rows parameters {how}, for each metric its own; seconds are of those for average precision")
    console.print(
        "Our rows    seconds are of the whole training: rehearsal, every candidate, export; microseconds of the ONNX "
        "graph on one core"
    )


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog="python -m bench.quality", description="Our models and the Handbook's, by the Handbook's protocol."
    )
    add = command.add_argument
    add("data", nargs="?", type=Path, help="a history, .parquet or .csv; simulated if it is left out")
    add("--columns", type=Path, metavar="FILE", help="map of column names, such as features/columns/handbook.toml")
    add("--column", action="append", default=[], metavar="NAME=COLUMN", help="one mapped column name; may be repeated")
    add(
        "--label-delay",
        type=int,
        default=LABEL_DELAY // DAY,
        metavar="DAYS",
        help="until labels are known (default: 7)",
    )
    add("--seed", type=int, default=0, help="for what our training draws at random (default: 0)")
    add("--search", action="store_true", help="choose the book's parameters again, on the validation weeks")
    add("--bagging", action="store_true", help="fit the book's balanced bagging, too: a minute a week")
    add("--ablation", action="store_true", help="what each group of our features brings, on the validation weeks")
    add(
        "--simulated-accounts",
        type=int,
        default=SIMULATION.accounts,
        metavar="N",
        help="without DATA (default: %(default)s)",
    )
    add("--simulated-days", type=int, default=SIMULATION.days, metavar="N", help="without DATA (default: %(default)s)")
    add("--simulated-seed", type=int, default=SIMULATION.seed, metavar="N", help="without DATA (default: %(default)s)")
    add("--out", type=Path, default=quality.FILE, metavar="FILE", help="where the JSON goes (default: %(default)s)")
    add("--verbose", action="store_true", help="each week, too")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 where the input or the options do not allow it."""
    parsed = parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, width=WIDTH)
    try:
        run(parsed, console)
    except VigieError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
