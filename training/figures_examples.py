"""What the champion's alerts rest on: the published graph's own contributions, over all alerts and in examples.

Contributions are the exact Shapley values of ``features.contributions``, in log odds: those that alerts carry as their
reasons in the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from features.contributions import Contributions
from features.definitions import Feature
from features.errors import InvalidHistory
from features.sentences import sentence
from training.evaluate import Evaluation, Scores, known_compromised
from training.figures import (
    BLUE,
    VERMILION,
    Card,
    Cards,
    Chart,
    Note,
    Part,
    Reason,
    counted,
    decimal,
    money,
    percent,
    style,
)

MOST_ALERTS: Final = 2_000  # explained for the chart; a sample says the same
SHOWN_FEATURES: Final = 20
KINDS: Final = 4
CAUGHT: Final = 6
FALSE_ALARMS: Final = 3
MISSED: Final = 3
REASONS: Final = (4, 2)  # for what happened, and against it
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Explained:
    """The published graph, the features that it takes, and the canonical history that it was judged on."""

    graph: bytes
    features: Sequence[Feature]
    history: pl.DataFrame

    @cached_property
    def contributions(self) -> Contributions:
        """Reads the graph; raises ``InvalidBundle`` where it cannot be explained."""
        return Contributions(self.graph, "the trained model")

    def reasons(self, row: npt.NDArray[np.float32], added: Scores, *, alert: bool) -> tuple[Reason, ...]:
        """The strongest reasons for the decision on a row [F] first, then a few of those against it."""
        named = dict(zip(self.features, row.tolist(), strict=True))
        order = np.argsort(-added if alert else added, kind="stable")
        towards = [i for i in order[: REASONS[0]] if (added[i] > 0) == alert and added[i]]
        away = [i for i in order[::-1][: REASONS[1]] if (added[i] < 0) == alert and added[i]]
        return tuple(
            Reason(self.features[i].name, sentence(self.features[i], named), float(added[i])) for i in (*towards, *away)
        )


def contributions(evaluation: Evaluation, explained: Explained) -> Chart | None:
    """How much each feature moves the score of an alert; None without test days or alerts, which it is about."""
    score = evaluation.candidates[evaluation.champion]
    alerts = np.flatnonzero(score >= evaluation.threshold)
    if evaluation.split.test is None or not alerts.size:
        return None
    if alerts.size > MOST_ALERTS:
        alerts = alerts[np.linspace(0, alerts.size - 1, MOST_ALERTS).round().astype(np.intp)]
    added = explained.contributions(evaluation.features[alerts])
    sizes = np.abs(added).mean(axis=0)
    order = np.argsort(-sizes, kind="stable")[:SHOWN_FEATURES]
    order = order[sizes[order] > 0]
    names = [explained.features[i].name for i in order]
    figure = go.Figure()
    for name, color, part in (("raises", VERMILION, added.clip(min=0)), ("lowers", BLUE, -added.clip(max=0))):
        figure.add_bar(
            x=part.mean(axis=0)[order],
            y=names,
            orientation="h",
            name=f"{name} the score",
            marker_color=color,
            hovertemplate="%{y}: %{x:.3f}",
        )
    style(figure, 110 + 21 * len(names))
    figure.update_layout(barmode="stack", bargap=0.3, legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed", dtick=1, tickfont_size=11)
    figure.update_xaxes(title_text="mean contribution to an alert (log odds)", rangemode="tozero")
    half = int(np.searchsorted(np.cumsum(np.sort(sizes)[::-1]), sizes.sum() / 2)) + 1
    unused = int((sizes == 0).sum())
    reading = (
        f"Of {counted(alerts.size, 'held-out alert')}: the length of a bar is the mean size of what the feature adds "
        f"to the log odds of the score (0.69 doubles the odds). {counted(half, 'feature')} of {len(sizes)} "
        f"{'makes' if half == 1 else 'make'} half of it; the first is {names[0]} with "
        f"{percent(sizes[order[0]] / sizes.sum())}. "
    )
    if unused:
        reading += f"{counted(unused, 'feature')} {'adds' if unused == 1 else 'add'} nothing to any alert. "
    reading += "Features that say the same share their weight, so a short bar does not mean that a feature can go."
    return Chart("contributions", "What alerts rest on", reading, figure)


def example_parts(evaluation: Evaluation, explained: Explained) -> list[Part]:
    """Caught frauds of every kind, false alarms and missed frauds, each with its reasons."""
    title = "Alerts and misses, explained"
    if evaluation.split.test is None:
        reading = (
            "There are no test days. The figures are of a rehearsal on the validation days, from which the published "
            "model has learnt, so its reasons there would say little."
        )
        return [Note("examples", title, reading)]
    caught, false_alarms, missed = examples(evaluation)
    chosen = np.concatenate([caught, false_alarms, missed])
    if not chosen.size:
        return [Note("examples", title, "There is no alert on the test days, and no fraud.")]
    judged = judged_transactions(evaluation, explained.history)
    added = explained.contributions(evaluation.features[chosen])
    cards = tuple(
        _card(evaluation, explained, judged.row(int(row), named=True), int(row), of_row)
        for row, of_row in zip(chosen, added, strict=True)
    )
    shown = (
        (caught, "caught fraud", " from the surest to the narrowest of each kind"),
        (false_alarms, "false alarm", " from the highest score to the lowest"),
        (missed, "missed fraud", " of the highest amounts"),
    )
    listed = "; ".join(f"{counted(rows.size, one)}{which}" if rows.size else f"no {one}" for rows, one, which in shown)
    reading = (
        f"{listed[0].upper()}{listed[1:]}. A reason says what a feature adds to the log odds of the score, as in the "
        f"stream; all of them together and {explained.contributions.base:.2f}, where every score starts, make the "
        f"score. Shown are up to {REASONS[0]} that speak for the decision and {REASONS[1]} that speak against it."
    )
    return [Cards("examples", title, reading, cards)]


def examples(evaluation: Evaluation) -> tuple[Rows, Rows, Rows]:
    """Positions among the held-out rows: caught frauds, false alarms, missed frauds.

    An account comes once among the caught of a kind, and once in each of the other lists.
    """
    score = evaluation.candidates[evaluation.champion]
    alert = score >= evaluation.threshold
    by_score = np.argsort(-score, kind="stable")
    by_amount = np.argsort(-evaluation.amount, kind="stable")
    caught = by_score[(alert & evaluation.y)[by_score]]
    kinds = np.array([str(kind) for kind in evaluation.fraud_scenario[caught]])
    names, counts = np.unique(kinds, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")][:KINDS]
    a_kind = max(1, CAUGHT // max(1, names.size))
    of_kinds = [_spread(evaluation, caught[kinds == name], a_kind) for name in names]
    false_alarms = by_score[(alert & ~evaluation.y)[by_score]]
    missed = by_amount[(~alert & evaluation.y)[by_amount]]
    empty = np.empty(0, np.intp)
    return (
        np.concatenate([empty, *of_kinds]),
        _spread(evaluation, false_alarms, FALSE_ALARMS),
        _once(evaluation, missed)[:MISSED],
    )


def _once(evaluation: Evaluation, rows: Rows) -> Rows:
    """The first of each account's rows, in their order."""
    _, first = np.unique(evaluation.account[rows], return_index=True)
    return rows[np.sort(first)]


def _spread(evaluation: Evaluation, rows: Rows, count: int) -> Rows:
    """Up to ``count`` rows of different accounts, evenly spaced from the first to the last."""
    rows = _once(evaluation, rows)
    kept = np.unique(np.linspace(0, rows.size - 1, min(count, rows.size)).round().astype(np.intp))
    return rows[kept]


def judged_transactions(evaluation: Evaluation, history: pl.DataFrame) -> pl.DataFrame:
    """The history's rows that were judged, as ``training.compare.judged_rows`` takes them from the test days.

    Raises ``InvalidHistory`` where they are not the evaluation's.
    """
    period = evaluation.split.held_out
    inside = period.rows(history)
    if evaluation.y.size < inside.sum():
        inside &= ~known_compromised(history, period, evaluation.split.label_delay)
    judged = history.filter(pl.Series(inside))
    if not np.array_equal(judged["timestamp"].dt.epoch("us").to_numpy(), evaluation.timestamp):
        raise InvalidHistory(
            f"{judged.height} rows of the history lie in the held-out days, but not the {evaluation.y.size} that were "
            "judged; give the history that the model was evaluated on"
        )
    return judged


def _card(evaluation: Evaluation, explained: Explained, of: dict[str, Any], row: int, added: Scores) -> Card:
    score = evaluation.candidates[evaluation.champion][row]
    alert, fraud = bool(score >= evaluation.threshold), bool(evaluation.y[row])
    named = evaluation.fraud_scenario[row]
    kind = "" if named is None else f" of kind {named}"
    instant = EPOCH + timedelta(microseconds=int(evaluation.timestamp[row]))
    title = f"Fraud{kind}, {'caught' if alert else 'missed'}" if fraud else "False alarm"
    facts = (
        ("score", decimal(score)),
        ("amount", money(int(evaluation.amount[row]))),
        ("time", f"{instant:%Y-%m-%d %H:%M:%S} UTC"),
        ("account", str(of["account_id"])),
        ("merchant", str(of["merchant_id"])),
        ("transaction", str(of["transaction_id"])),
    )
    reasons = explained.reasons(evaluation.features[row], added, alert=alert)
    return Card(title, "missed" if not alert else "caught" if fraud else "false_alarm", facts, reasons)
