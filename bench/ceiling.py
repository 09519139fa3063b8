"""How much of a simulated history's fraud can be found at all, and how much of that the model finds.

    python -m bench.ceiling --seed 7 --accounts 2000 --days 120

Simulates, trains as ``python -m training.train`` does, and holds the champion's scores on the held-out days against
those of an oracle (``bench.oracle``) on the same rows: one that learns of a fraud when it is reported, and one that
looks only at labels of payments which are at least the label delay old, as the Handbook's features do. Nothing that is
computed from such a history can do better than the first, but by luck.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from bench.hidden import Flags, Floats, Known
from bench.oracle import Payments, posterior
from bench.published import METRICS
from features.batch import compute
from features.definitions import LABEL_DELAY
from features.errors import VigieError
from training.evaluate import CARDS, Evaluation, judge, known_compromised
from training.pipeline import Options, train
from training.population import ONLINE, TYPES
from training.progress import Stages
from training.simulate import STAGES, Simulation, add_options, bots, canonical, chosen, population, simulate, unreported
from training.thresholds import AlertRate, LeastCost

ORACLE: Final = "oracle"
DELAYED: Final = "oracle, delayed labels"
MODEL: Final = "model"
CONTENDERS: Final = (ORACLE, DELAYED, MODEL)
STANDARD: Final = Simulation(accounts=2_000, days=120)
TEST_DAYS: Final = 14
ALERT_RATE: Final = 0.01  # above the share of frauds, so that the budget is not what frauds are missed for
RESAMPLES: Final = 50
WIDTH: Final = 120  # of what is printed, terminal or not


@dataclass(frozen=True)
class OfBot:
    """One bot's frauds on the held-out days, and the shares of them that are found, by contender.

    ``likely``: at a posterior of one half or more. ``alerted``: among so many alerts, the same number for each
    contender. ``hidden``: the posterior is not above the share of frauds, so all that could be known says that the
    payment is no likelier to be a fraud than any other; nobody could find these but by chance. ``likely`` and
    ``hidden`` are the oracles' only.
    """

    frauds: int
    likely: dict[str, float]
    alerted: dict[str, float]
    hidden: dict[str, float]


@dataclass(frozen=True)
class Ceiling:
    """The comparison: ``overall`` has what ``training.evaluate.judge`` says, by contender; ``bots`` is by bot.

    ``ahead``: AUC ROC and average precision of the model less those of the oracle with delayed labels, each with its
    standard error.
    """

    days: str
    champion: str
    rows: int
    alerts: int
    overall: dict[str, dict[str, float]]
    ahead: dict[str, tuple[float, float]]
    bots: dict[str, OfBot]


def measure(spec: Simulation, options: Options, stages: Stages) -> Ceiling:
    """Simulates, trains, asks the oracles and compares. Raises ``VigieError`` where the options do not allow it."""
    with stages.stage(f"Simulating {spec.accounts:,} accounts", STAGES) as advance:
        history = canonical(simulate(spec, advance))
    with stages.stage(f"Computing the features of {history.height:,} transactions"):
        features = compute(history)
    evaluation = train(history, features, options, stages).evaluation
    split = evaluation.split
    period = split.held_out
    judged = period.rows(history) & ~known_compromised(history, period, split.label_delay)
    scores = {MODEL: evaluation.candidates[evaluation.champion]}
    who, scripts = population(spec), bots(spec)
    for name, delayed in ((ORACLE, False), (DELAYED, True)):
        with stages.stage(f"Asking the {name}"):
            scores[name] = posterior(payments(history, delayed=delayed), who, scripts)[judged]
    merchant = history["merchant_id"].to_numpy()[judged]
    return compare(evaluation, scores, merchant)


def compare(evaluation: Evaluation, scores: dict[str, Floats], merchant: NDArray[Any]) -> Ceiling:
    """Holds the scores [n] of the ``CONTENDERS`` for the held-out rows against each other; ``merchant`` [n] is paid."""
    y, scenario, period = evaluation.y, evaluation.fraud_scenario, evaluation.split.held_out
    assert not isinstance(evaluation.rule, LeastCost)
    alerts = evaluation.rule.at_most(evaluation.scored)
    overall = {
        name: judge(
            scores[name],
            y,
            account=evaluation.account,
            timestamp=evaluation.timestamp,
            threshold=float(np.partition(scores[name], -alerts)[-alerts]),
            period=period,
        )
        for name in CONTENDERS
    }
    alerted = {name: among_top(scores[name], alerts) for name in CONTENDERS}
    oracles = (ORACLE, DELAYED)
    found = {}
    for bot in sorted(set(scenario[y].tolist())):
        rows = y & (scenario == bot)
        found[bot] = OfBot(
            frauds=int(rows.sum()),
            likely={name: float((scores[name][rows] >= 0.5).mean()) for name in oracles},
            alerted={name: float(alerted[name][rows].mean()) for name in CONTENDERS},
            hidden={name: float((scores[name][rows] <= y.mean()).mean()) for name in oracles},
        )
    ahead = noise(y, scores[MODEL], scores[DELAYED], merchant)
    return Ceiling(str(period), evaluation.champion, len(y), alerts, overall, ahead, found)


def noise(y: Flags, one: Floats, other: Floats, merchant: NDArray[Any]) -> dict[str, tuple[float, float]]:
    """By how much ``one`` is better than the ``other``, and the standard error: a bootstrap over merchants.

    Not over rows: the frauds at one compromised merchant are found or missed together.
    """
    _, group = np.unique(merchant, return_inverse=True)
    rng = np.random.default_rng(0)
    better: dict[str, tuple[float, float]] = {}
    draws = [rng.poisson(1, group.max() + 1)[group] for _ in range(RESAMPLES)]
    for name, metric in (("auc_roc", roc_auc_score), ("average_precision", average_precision_score)):
        spread = [metric(y, one, sample_weight=w) - metric(y, other, sample_weight=w) for w in draws]
        better[name] = float(metric(y, one) - metric(y, other)), float(np.std(spread))
    return better


def among_top(scores: Floats, alerts: int) -> Flags:
    """Which rows [n] have the highest scores, exactly so many; of equal ones the earlier."""
    chosen_rows = np.zeros(len(scores), bool)
    chosen_rows[np.argsort(-scores, kind="stable")[:alerts]] = True
    return chosen_rows


def payments(history: pl.DataFrame, *, delayed: bool = False) -> Payments:
    """A simulated history (canonical frame) as the oracle reads it.

    ``delayed``: as though every label became known ``LABEL_DELAY`` after its payment, and not before.
    """
    timestamp = history["timestamp"].dt.epoch("us").to_numpy()
    delay = LABEL_DELAY // timedelta(microseconds=1)
    reported = history["labelled_at"].fill_null(pl.lit(0).cast(history["labelled_at"].dtype)).dt.epoch("us").to_numpy()
    known = Known(
        timestamp,
        history["is_fraud"].to_numpy(),
        labelled_at=timestamp + delay if delayed else reported,
        delay=delay,
        unreported=np.ones_like if delayed else unreported,
    )
    codes = (
        history[column].str.slice(1).cast(pl.Int32).to_numpy()
        for column in ("account_id", "merchant_id", "location", "device_id")
    )
    account, merchant, location, device = codes
    return Payments(
        account=account,
        merchant=merchant,
        amount=history["amount"].to_numpy(),
        online=(history["transaction_type"] == TYPES[ONLINE]).to_numpy(),
        location=location,
        device=device,
        known=known,
    )


def lines(ceiling: Ceiling) -> list[Table | str]:
    """The comparison to print: overall, by bot, and what its columns say."""
    title = f"Held out {ceiling.days}, {ceiling.rows:,} transactions; {ceiling.alerts:,} alerts for each"
    overall = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    overall.add_column("", no_wrap=True)
    for column in ("AUC ROC", "AP", f"CP@{CARDS}"):
        overall.add_column(column, justify="right")
    for name in CONTENDERS:
        label = f"{name} ({ceiling.champion})" if name == MODEL else name
        overall.add_row(label, *(f"{ceiling.overall[name][metric]:.3f}" for metric in METRICS))
    ahead = (f"{value:+.3f} (standard error {error:.3f})" for value, error in ceiling.ahead.values())
    by_bot = Table(title="By fraud bot", title_justify="left", box=box.SIMPLE_HEAD)
    by_bot.add_column("", no_wrap=True)
    oracle, delayed = ("oracle\nlikely", "oracle\nalerted", "oracle\nhidden"), ("delayed\nalerted", "delayed\nhidden")
    for column in ("frauds", *oracle, *delayed, "model\nalerted"):
        by_bot.add_column(column, justify="right", no_wrap=True)
    for bot, found in ceiling.bots.items():
        shares = (
            found.likely[ORACLE],
            found.alerted[ORACLE],
            found.hidden[ORACLE],
            found.alerted[DELAYED],
            found.hidden[DELAYED],
            found.alerted[MODEL],
        )
        by_bot.add_row(bot, f"{found.frauds:,}", *(f"{share:.3f}" for share in shares))
    return [
        overall,
        "The model less the oracle with delayed labels: AUC ROC {}, AP {}".format(*ahead),
        by_bot,
        "likely   share of the frauds with a posterior of one half or more",
        "alerted  share of the frauds among so many alerts, the same number for each",
        "hidden   share of the frauds that nobody could find: their posterior is not above the share of frauds among",
        "         all payments, so that by all that could be known they look like any other payment",
        "delayed  the oracle looks only at labels of payments that are a label delay old, as the book's features do",
    ]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser("python -m bench.ceiling", description="What could be found, and what is.")
    add_options(command, STANDARD)
    command.add_argument("--test-days", type=int, default=TEST_DAYS, metavar="N", help="days that are held out")
    command.add_argument(
        "--alert-rate",
        type=float,
        default=ALERT_RATE,
        metavar="R",
        help=f"alert budget: a share (default: {ALERT_RATE})",
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 where the options do not allow it."""
    parsed = parser().parse_args(arguments)
    console = Console(highlight=False, width=WIDTH)
    try:
        options = Options(test_days=parsed.test_days, rule=AlertRate(parsed.alert_rate))
        with Stages() as stages:
            ceiling = measure(chosen(parsed), options, stages)
    except VigieError as error:
        sys.stderr.write(f"ceiling: {error}\n")
        return 2
    for line in lines(ceiling):
        console.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
