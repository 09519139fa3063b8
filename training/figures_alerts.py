"""What the champion's alerts are worth: at its threshold, at others, by day, and by kind of fraud."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from sklearn.metrics import confusion_matrix

from training.evaluate import CARDS, Evaluation, days_of
from training.figures import (
    BLUE,
    GREY,
    TOP,
    TWO_SIDED,
    Chart,
    Note,
    Part,
    bars_with_intervals,
    candidate_line,
    counted,
    label,
    money,
    percent,
    spoken,
    style,
    threshold_marker,
    whole,
)
from training.figures_data import amount_bands
from training.split import DAY

HOUR: Final = 3_600_000_000  # microseconds
SHOWN_FEATURES: Final = 30
CURVE_POINTS: Final = 500
FEW: Final = 10  # frauds; a group with fewer says nothing about the model

Floats = npt.NDArray[np.float64]


def alert_parts(evaluation: Evaluation) -> list[Part]:
    """The parts about alerts; needs both classes among the held-out rows."""
    return [confusion(evaluation), alerts_against_recall(evaluation), card_precision(evaluation)]


def confusion(evaluation: Evaluation) -> Chart:
    """Honest and fraudulent rows with and without an alert at the champion's threshold."""
    alert = _alerts(evaluation)
    matrix = confusion_matrix(evaluation.y, alert, labels=[False, True])
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    text, amounts = [], []
    for was, counts, of_row in zip((False, True), matrix, shares, strict=True):
        amounts = [evaluation.amount[(evaluation.y == was) & (alert == said)].sum() for said in (False, True)]
        cells = zip(counts, of_row, amounts, strict=True)
        text.append([f"<b>{whole(n)}</b><br>{percent(s)} of the row<br>amount {money(a)}" for n, s, a in cells])
    heat = go.Heatmap(
        z=np.where(np.eye(2, dtype=bool), -shares, shares) * 0.55,  # right is blue, wrong vermilion, fit for dark text
        x=["no alert", "alert"],
        y=["honest", "fraud"],
        zmin=-1,
        zmax=1,
        colorscale=TWO_SIDED,
        text=text,
        texttemplate="%{text}",
        textfont={"size": 14, "color": "#15181C"},
        showscale=False,
        hoverinfo="skip",
        xgap=3,
        ygap=3,
    )
    figure = style(go.Figure(heat), 300)
    figure.update_layout(margin_t=TOP)
    figure.update_yaxes(autorange="reversed", showgrid=False, title_text="what it was")
    figure.update_xaxes(showgrid=False, title_text=f"what {label(spoken(evaluation.champion))} said")
    (_, false_alarms), (missed, caught) = matrix
    ratio = f"{false_alarms / caught:.2g} false alarms for each fraud caught" if caught else "no fraud caught"
    reading = (
        f"At the threshold {evaluation.threshold:.4g} ({evaluation.budget}) there are "
        f"{counted(int(alert.sum()), 'alert')}: {ratio}, and {counted(missed, 'fraud')} worth {money(amounts[0])} "
        "without an alert."
    )
    return Chart("confusion", "Decisions at the threshold", reading, figure)


def alerts_against_recall(evaluation: Evaluation) -> Chart:
    """What share of the frauds, and of their amount, is caught for how many alerts a day."""
    days = (evaluation.split.held_out.end - evaluation.split.held_out.start) / DAY
    figure = go.Figure()
    for position, (name, score) in enumerate(evaluation.candidates.items()):
        alerts, frauds, amount = _sweep(evaluation, score)
        figure.add_trace(candidate_line(position, spoken(name), alerts / days, 100 * frauds))
        if name == evaluation.champion and amount is not None:
            of_amount = candidate_line(position, f"{spoken(name)}, of the amount", alerts / days, 100 * amount)
            figure.add_trace(of_amount.update(line={"color": GREY, "dash": "solid", "width": 1.5}))
    figure.update_traces(hovertemplate="%{y:.1f} % caught at %{x:,.1f} alerts a day")
    alert = _alerts(evaluation)
    at, caught = float(alert.sum() / days), float(alert[evaluation.y].mean())
    figure.add_trace(threshold_marker(at, 100 * caught, in_legend=True))
    if at:
        figure.add_vline(at, line={"color": GREY, "dash": "dash", "width": 1.5})
        text = f"threshold set for {label(evaluation.budget)}"
        place = {"x": np.log10(at), "y": 1, "xanchor": "left", "yanchor": "bottom", "xshift": 6}
        figure.add_annotation(text=text, showarrow=False, **place)
    style(figure, 400)
    figure.update_xaxes(type="log", dtick=1, title_text="alerts a day (logarithmic)")
    figure.update_yaxes(title_text="caught (%)", range=[-1, 102])
    twice = _recall_at(evaluation, 2 * at * days)
    reading = (
        f"The threshold gives {at:,.1f} alerts a day on the {counted(days, 'held-out day')} and catches "
        f"{percent(caught)} of the frauds; twice as many alerts would catch {percent(twice)}. Where a curve is flat, "
        "more alerts buy nothing but work."
    )
    return Chart("alerts", "Alerts a day and frauds caught", reading, figure)


def card_precision(evaluation: Evaluation) -> Chart:
    """Of the accounts with the highest scores of each day, how many had a fraud on it."""
    figure = go.Figure()
    means = {}
    for position, (name, score) in enumerate(evaluation.candidates.items()):
        days, hits, possible = card_hits(evaluation, score)
        means[name] = float(np.mean(hits) / CARDS)
        line = candidate_line(position, f"{spoken(name)}, mean {means[name]:.3f}", days, [hit / CARDS for hit in hits])
        detail = [f"{hit} of {counted(best, 'account')}" for hit, best in zip(hits, possible, strict=True)]
        line.update(mode="lines+markers", customdata=detail, hovertemplate="%{y:.2f} (%{customdata} with fraud)")
        figure.add_trace(line)
        if name == evaluation.champion:
            ceiling, champion_possible = [min(best, CARDS) / CARDS for best in possible], float(np.mean(possible))
    line = {"color": GREY, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=days, y=ceiling, mode="lines", name="the most that was possible", line=line)
    style(figure, 380)
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(title_text="day (UTC)")
    figure.update_yaxes(title_text=f"card precision@{CARDS}", rangemode="tozero")
    reading = (
        f"On each day the {CARDS} accounts with the highest scores are looked at; an account found out is left alone "
        f"afterwards. {spoken(evaluation.champion)} finds {means[evaluation.champion] * CARDS:.1f} accounts with fraud "
        f"a day, of {champion_possible:.1f} that there were to find (dotted)."
    )
    return Chart("card_precision", f"Card precision@{CARDS} by day", reading, figure)


def card_hits(evaluation: Evaluation, score: npt.NDArray[np.float64]) -> tuple[list[datetime], list[int], list[int]]:
    """By test day: its start, accounts with fraud among the ``CARDS`` highest scores, and accounts with fraud in all.

    Accounts found on an earlier day are left out of both counts: card precision of the Handbook, chapter 4, before it
    is divided by ``CARDS``.
    """
    rows = pl.DataFrame(
        {
            "day": days_of(evaluation.timestamp, evaluation.split.held_out),
            "account": evaluation.account,
            "score": score,
            "fraud": evaluation.y,
        }
    )
    found: list[object] = []
    days, hits, possible = [], [], []
    for (day,), of_day in rows.group_by("day", maintain_order=True):
        accounts = (
            of_day.filter(~pl.col("account").is_in(found))
            .group_by("account", maintain_order=True)
            .max()
            .sort("score", descending=True, maintain_order=True)
        )
        hit = accounts.head(CARDS).filter("fraud")["account"].to_list()
        found += hit
        days.append(evaluation.split.held_out.start.replace(tzinfo=None) + timedelta(days=cast("int", day)))
        hits.append(len(hit))
        possible.append(int(accounts["fraud"].sum()))
    return days, hits, possible


def importances(evaluation: Evaluation) -> Part:
    """What the champion uses: the share of it that each feature carries."""
    title = "What the champion uses"
    ranking = sorted(evaluation.importances.items(), key=lambda item: item[1], reverse=True)
    used = [(name, share) for name, share in ranking if share > 0]
    if not used:
        return Note("importances", title, f"{spoken(evaluation.champion)} gives no importances.")
    shown = used[:SHOWN_FEATURES]
    figure = go.Figure(
        go.Bar(
            x=[100 * share for _, share in shown],
            y=[name for name, _ in shown],
            orientation="h",
            marker_color=BLUE,
            hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
        )
    )
    style(figure, 90 + 19 * len(shown))
    figure.update_layout(margin_t=TOP, bargap=0.3)
    figure.update_yaxes(autorange="reversed", dtick=1, tickfont_size=11)
    figure.update_xaxes(title_text="share of the model (%)", rangemode="tozero")
    total = sum(share for _, share in ranking)
    half = int(np.searchsorted(np.cumsum([share for _, share in ranking]), total / 2)) + 1
    unused = len(ranking) - len(used)
    reading = (
        f"{counted(half, 'feature')} of {len(ranking)} {'carries' if half == 1 else 'carry'} half of "
        f"{spoken(evaluation.champion)}; the first is {shown[0][0]} with {percent(shown[0][1])}. "
    )
    if unused:
        reading += f"{counted(unused, 'feature')} {'is' if unused == 1 else 'are'} not used at all. "
    reading += "Features that say the same share their importance, so a low bar does not mean that a feature can go."
    return Chart("importances", title, reading, figure)


def weak_parts(evaluation: Evaluation) -> list[Part]:
    """Recall at the threshold by kind of fraud, amount and hour; needs a fraud among the held-out rows."""
    amount_names, amount_band = amount_bands(evaluation.amount)
    hours = [f"{hour:02d}:00 to {hour + 2:02d}:59" for hour in range(0, 24, 3)]
    hour_band = evaluation.timestamp // HOUR % 24 // 3
    fraud = evaluation.y
    return [
        _recall_by_kind(evaluation),
        _recall_by(evaluation, "recall_by_amount", "amount", amount_names, amount_band[fraud]),
        _recall_by(evaluation, "recall_by_hour", "hour (UTC)", hours, hour_band[fraud]),
    ]


def kinds_of(evaluation: Evaluation) -> tuple[list[str], npt.NDArray[np.int64]] | None:
    """The kinds of fraud, and for each held-out fraud its position among them; None where the data name none."""
    kinds = evaluation.fraud_scenario[evaluation.y]
    if all(kind is None for kind in kinds):
        return None
    named = np.array(["unnamed" if kind is None else str(kind) for kind in kinds])
    names, group = np.unique(named, return_inverse=True)
    return names.tolist(), group


def _recall_by_kind(evaluation: Evaluation) -> Part:
    kinds = kinds_of(evaluation)
    if kinds is None:
        reading = "The data do not name the kinds of fraud (column fraud_scenario)."
        return Note("recall_by_kind", "Frauds caught by kind of fraud", reading)
    return _recall_by(evaluation, "recall_by_kind", "kind of fraud", *kinds)


def _recall_by(evaluation: Evaluation, name: str, by: str, names: Sequence[str], group: npt.NDArray[np.int64]) -> Chart:
    """``group`` int64 [frauds] gives for each fraud, in the order of the rows, its position in ``names``."""
    caught = _alerts(evaluation)[evaluation.y]
    trials = np.bincount(group, minlength=len(names))
    hits = np.bincount(group[caught], minlength=len(names))
    kept = np.flatnonzero(trials).tolist()
    bars = bars_with_intervals([label(names[i]) for i in kept], hits[kept].tolist(), trials[kept].tolist(), "fraud")
    figure = style(go.Figure(bars), 110 + 30 * len(kept))
    figure.update_layout(margin_t=TOP, bargap=0.35)
    overall = float(caught.mean())
    figure.add_vline(100 * overall, line={"color": GREY, "dash": "dash", "width": 1.5})
    figure.update_xaxes(title_text="frauds caught at the threshold (%), with 95 % intervals", range=[0, 101])
    figure.update_yaxes(autorange="reversed", type="category", title_text=by)
    reading = f"The dashed line is the recall of all frauds, {percent(overall)}. "
    enough = [i for i in kept if trials[i] >= FEW]
    if len(enough) > 1:
        worst = min(enough, key=lambda i: hits[i] / trials[i])
        share = percent(float(hits[worst] / trials[worst]))
        reading += f"Weakest is {names[worst]}: {whole(hits[worst])} of {counted(trials[worst], 'fraud')} ({share})."
    few = len(kept) - len(enough)
    if few:
        reading += f" {counted(few, 'group')} with fewer than {FEW} frauds {'says' if few == 1 else 'say'} little."
    return Chart(name, f"Frauds caught by {by}", reading, figure)


def _alerts(evaluation: Evaluation) -> npt.NDArray[np.bool_]:
    return evaluation.candidates[evaluation.champion] >= evaluation.threshold


def _sweep(evaluation: Evaluation, score: npt.NDArray[np.float64]) -> tuple[Floats, Floats, Floats | None]:
    """Alerts, share of the frauds and share of their amount at each distinct threshold, from the highest score down."""
    order = np.argsort(-score, kind="stable")
    last_of_score = np.append(np.flatnonzero(np.diff(score[order])), score.size - 1)
    frauds = np.cumsum(evaluation.y[order])[last_of_score]
    amounts = np.cumsum(np.where(evaluation.y, evaluation.amount, 0)[order])[last_of_score]
    thin = np.unique(np.geomspace(1, last_of_score.size, CURVE_POINTS).astype(np.int64)) - 1
    lost = amounts[thin] / amounts[-1] if amounts[-1] > 0 else None
    return (last_of_score[thin] + 1.0), frauds[thin] / frauds[-1], lost


def _recall_at(evaluation: Evaluation, alerts: float) -> float:
    """Share of the frauds among the given number of the champion's highest scores."""
    order = np.argsort(-evaluation.candidates[evaluation.champion], kind="stable")
    return float(evaluation.y[order[: round(alerts)]].sum() / evaluation.y.sum())
