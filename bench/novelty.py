"""What an anomaly score adds where a kind of fraud has never been seen: each kind held out of the training in turn.

    python -m bench.novelty [DATA] --seed 7 --accounts 2000 --days 120

For each kind of fraud its transactions of before the test are taken out of the history, so that no model has learned
from it and no feature has counted its labels: it begins on the first day of the test. The candidates are fitted to the
rest, and it is measured how well each finds the new kind within the alert budget; and how well the budget shared
between the champion's score and the anomaly score does. Without DATA a history is simulated; one of your own needs
``fraud_scenario``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from bench.ceiling import ALERT_RATE, STANDARD, TEST_DAYS, WIDTH, among_top
from features.batch import compute
from features.definitions import FEATURES, LABEL_DELAY, reach
from features.errors import InvalidHistory, VigieError
from features.history import load
from training.compare import Rows, judged_rows, training_rows
from training.fit import CANDIDATES, FOREST, XGBOOST, Floats, Labels, fit
from training.progress import Stages
from training.simulate import STAGES, add_options, canonical, chosen, simulate
from training.split import Split, plan
from training.thresholds import AlertRate

SHARED: Final = "shared"
ANOMALY_SHARE: Final = 0.2  # of the alerts, where the budget is shared


@dataclass(frozen=True)
class Novelty:
    """One kind of fraud that the models have not seen, on the held-out days.

    ``frauds``: of the new kind; ``others``: of the kinds that were seen. ``auc_roc``: the new kind against honest rows,
    by candidate. ``found`` and ``known_found``: the share of the new kind, and of the others, among the alerts, by
    candidate and for ``SHARED``. ``seen_found``: what XGBoost finds of the kind if it did learn from it.
    """

    kind: str
    frauds: int
    others: int
    auc_roc: dict[str, float]
    found: dict[str, float]
    known_found: dict[str, float]
    seen_found: float


def share_alerts(scores: Floats, anomaly: Floats, alerts: int, share: float = ANOMALY_SHARE) -> Labels:
    """Which rows [n] get an alert: most by their score, and a ``share`` of ``alerts`` by anomaly among what is left."""
    by_anomaly = round(alerts * share)
    first = among_top(scores, alerts - by_anomaly)
    return first | among_top(np.where(first, -np.inf, anomaly), by_anomaly)


def measure(history: pl.DataFrame, rule: AlertRate, stages: Stages, *, test_days: int, seed: int = 0) -> list[Novelty]:
    """Holds out each kind of fraud that the canonical ``history`` names. Raises ``InvalidHistory``."""
    kinds = history["fraud_scenario"].drop_nulls().unique().sort().to_list()
    if len(kinds) < 2:
        raise InvalidHistory(f"the history names {len(kinds)} kinds of fraud (fraud_scenario); it needs at least 2")
    split = plan(history, label_delay=LABEL_DELAY, reach=reach(FEATURES), test_days=test_days)
    with stages.stage("Learning from all kinds of fraud"):
        rows, margins = _judged(history, split, (XGBOOST,), seed)
    seen = among_top(margins[XGBOOST], rule.at_most(rows.scored(margins[XGBOOST])))
    found = []
    for kind in kinds:
        with stages.stage(f"Learning from all but {kind}"):
            new = (pl.col("timestamp") < split.as_of) & pl.col("fraud_scenario").eq_missing(kind)
            rest, margins_of_rest = _judged(history.filter(~new), split, CANDIDATES, seed)
            found.append(compare(kind, rest, margins_of_rest, rule, _share(seen, rows.fraud_scenario == kind)))
    return found


def compare(kind: str, rows: Rows, margins: dict[str, Floats], rule: AlertRate, seen_found: float) -> Novelty:
    """What is found of a kind among held-out ``rows``, by the margins [n] of ``CANDIDATES`` that have not seen it."""
    new = rows.fraud_scenario == kind
    known = rows.y & ~new
    alerts = rule.at_most(rows.scored(margins[XGBOOST]))
    alerted = {name: among_top(margin, alerts) for name, margin in margins.items()}
    alerted[SHARED] = share_alerts(margins[XGBOOST], margins[FOREST], alerts)
    return Novelty(
        kind,
        int(new.sum()),
        int(known.sum()),
        auc_roc={name: _auc(new[~known], margin[~known]) for name, margin in margins.items()},
        found={name: _share(some, new) for name, some in alerted.items()},
        known_found={name: _share(some, known) for name, some in alerted.items()},
        seen_found=seen_found,
    )


def _judged(
    history: pl.DataFrame, split: Split, candidates: Sequence[str], seed: int
) -> tuple[Rows, dict[str, Floats]]:
    features = compute(history)
    models = fit(*training_rows(history, features, split, split.train, seed=seed), seed)
    rows = judged_rows(history, features, split, split.held_out, keep_compromised=False)
    return rows, {name: models.margin(name, rows.features) for name in candidates}


def _auc(y: Labels, scores: Floats) -> float:
    return float(roc_auc_score(y, scores)) if y.any() and not y.all() else float("nan")


def _share(alerted: Labels, rows: Labels) -> float:
    return float(alerted[rows].mean()) if rows.any() else float("nan")


def table(found: Sequence[Novelty]) -> Table:
    """The comparison to print."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("held out", no_wrap=True)
    of_candidates = ("XGBoost", "\nlinear", "\nforest")
    measured = (f"AUC\n{of_candidates[0]}", *of_candidates[1:], f"found\n{of_candidates[0]}", *of_candidates[1:])
    for column in ("\nfrauds", *measured, "\nshared", "\nif seen", "others\nXGBoost", "\nshared"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in found:
        shares = (
            *(one.auc_roc[name] for name in CANDIDATES),
            *(one.found[name] for name in (*CANDIDATES, SHARED)),
            one.seen_found,
            one.known_found[XGBOOST],
            one.known_found[SHARED],
        )
        shown.add_row(one.kind, f"{one.frauds:,}", *(f"{share:.3f}" for share in shares))
    return shown


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser("python -m bench.novelty", description="Kinds of fraud that were never seen.")
    command.add_argument(
        "data", nargs="?", type=Path, help="a history with fraud_scenario; simulated if it is left out"
    )
    add_options(command, STANDARD)
    command.add_argument("--test-days", type=int, default=TEST_DAYS, metavar="N", help="days that are held out")
    budget = f"alert budget: a share (default: {ALERT_RATE})"
    command.add_argument("--alert-rate", type=float, default=ALERT_RATE, metavar="R", help=budget)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 where the input or the options do not allow it."""
    parsed = parser().parse_args(arguments)
    console = Console(highlight=False, width=WIDTH)
    try:
        rule = AlertRate(parsed.alert_rate)
        with Stages() as stages:
            if parsed.data:
                history = load(parsed.data)
            else:
                with stages.stage(f"Simulating {parsed.accounts:,} accounts", STAGES) as advance:
                    history = canonical(simulate(chosen(parsed), advance))
            found = measure(history, rule, stages, test_days=parsed.test_days)
    except VigieError as error:
        sys.stderr.write(f"novelty: {error}\n")
        return 2
    console.print(table(found))
    console.print("AUC     ROC, the kind that was held out against honest transactions")
    console.print(f"found   share of its frauds among the alerts; budget: {rule}")
    console.print(f"shared  {1 - ANOMALY_SHARE:.0%} of the alerts by XGBoost's score, the rest by the anomaly score")
    console.print("if seen what XGBoost finds of it having learned from it; others: what is found of the other kinds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
