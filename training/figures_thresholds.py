"""Whether the threshold keeps on later days what it was chosen for: the budget by day, and the cost."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from training.evaluate import Evaluation, days_of
from training.figures import BLUE, FRAUD, GREY, HONEST, ORANGE, Chart, Part, counted, percent, style, whole
from training.figures_calibration import HIGHEST, PROBABILITIES, log_odds
from training.thresholds import LeastCost, Levels, Scored, levels

CURVE_POINTS: Final = 500

Floats = npt.NDArray[np.float64]


def threshold_parts(evaluation: Evaluation) -> list[Part]:
    """The parts about what the threshold was chosen for; they need a held-out row, of any class."""
    costs: list[Part] = [cost_curve(evaluation, evaluation.rule)] if isinstance(evaluation.rule, LeastCost) else []
    return [alerts_by_day(evaluation), *costs]


def alerts_by_day(evaluation: Evaluation) -> Chart:
    """Alerts on each held-out day, right and false ones, against the budget or against the validation days."""
    held_out, scored = evaluation.split.held_out, evaluation.scored
    day = days_of(evaluation.timestamp, held_out)
    alert = scored.scores >= evaluation.threshold
    number = int(np.ceil(scored.days))
    starts = [held_out.start.replace(tzinfo=None) + timedelta(days=n) for n in range(number)]
    figure = go.Figure()
    for name, color, kind in (("frauds", FRAUD, evaluation.y), ("false alarms", HONEST, ~evaluation.y)):
        counts = np.bincount(day[alert & kind], minlength=number)
        figure.add_bar(x=starts, y=counts, name=name, marker_color=color, hovertemplate="%{y}")
    expected, meaning = _expected(evaluation, day, number)
    line = {"color": GREY, "dash": "dash", "width": 2}
    figure.add_scatter(x=starts, y=expected, mode="lines+markers", name=meaning, line=line, hovertemplate="%{y:.1f}")
    style(figure, 340)
    figure.update_layout(barmode="stack", bargap=0.35, hovermode="x unified")
    figure.update_xaxes(title_text="day (UTC)", dtick=86_400_000 * max(1, number // 14))
    figure.update_yaxes(title_text="alerts", rangemode="tozero")
    alerts = np.bincount(day[alert], minlength=number)
    reading = (
        f"On the {counted(number, 'held-out day')} there are {counted(int(alerts.sum()), 'alert')}, "
        f"{alerts.sum() / scored.days:,.1f} a day (from {whole(alerts.min())} to {whole(alerts.max())}); "
        f"{meaning}: {expected.sum() / scored.days:,.1f} a day. A budget holds on average; frauds come in waves, and "
        "so do alerts."
    )
    return Chart("alerts_by_day", "Alerts on each day", reading, figure)


def _expected(evaluation: Evaluation, day: npt.NDArray[np.int64], number: int) -> tuple[Floats, str]:
    """Alerts expected on each held-out day, float64 [number], and what that is."""
    scored, rule = evaluation.scored, evaluation.rule
    lengths = np.minimum(1.0, scored.days - np.arange(number))
    if isinstance(rule, LeastCost):
        validation = evaluation.validation
        a_day = float((validation.scores >= evaluation.threshold).sum()) / validation.days
        return a_day * lengths, "mean of the validation days"
    pieces = [
        Scored(scored.scores[day == n], scored.y[day == n], scored.amount[day == n], lengths[n]) for n in range(number)
    ]
    return np.array([rule.a_day(piece) for piece in pieces]) * lengths, "the budget"


def cost_curve(evaluation: Evaluation, rule: LeastCost) -> Chart:
    """The cost a day at every threshold, on validation and on held-out days, with the chosen one marked."""
    figure = go.Figure()
    drawn = (
        ("validation days", BLUE, "dot", evaluation.validation),
        ("held-out days", ORANGE, "solid", evaluation.scored),
    )
    highest, lowest = 0.0, 1.0
    for name, color, dash, rows in drawn:
        of = levels(rows)
        kept = _thinned(of)
        cost = rule.costs(of) / rows.days
        line = {"color": color, "dash": dash, "width": 2, "shape": "hv"}
        hover = "%{y:,.2f} a day from a score of %{customdata:.4g} on"
        figure.add_scatter(
            x=log_odds(of.threshold[kept]),
            y=cost[kept],
            customdata=of.threshold[kept],
            mode="lines",
            name=name,
            line=line,
            hovertemplate=hover,
        )
        figure.add_hline(cost[0], line={"color": color, "dash": dash, "width": 1}, opacity=0.6)
        highest = max(highest, float(cost[0]))
        near = of.threshold[(cost <= 1.5 * cost[0]) & (of.threshold > 0)]
        lowest = min(lowest, float(near.min()) if near.size else 1.0)
    found = rule.metrics(evaluation.scored, evaluation.threshold)
    days = evaluation.scored.days
    at = float(log_odds(np.array([evaluation.threshold]))[0])
    figure.add_vline(at, line={"color": GREY, "dash": "dash", "width": 1.5})
    marker = {"symbol": "circle-open", "size": 12, "color": GREY, "line": {"width": 2.5}}
    figure.add_scatter(x=[at], y=[found["cost"] / days], mode="markers", marker=marker, name="the threshold")
    style(figure, 400)
    ends = log_odds(np.array([lowest, HIGHEST])) + np.array([-0.2, 0.4])
    figure.update_xaxes(title_text="threshold (log odds)", range=ends, **PROBABILITIES)
    figure.update_yaxes(title_text="cost a day", range=[0, 1.5 * highest or 1.0])
    chosen, best = (
        rule.metrics(evaluation.validation, evaluation.threshold),
        float(rule.costs(levels(evaluation.scored)).min()),
    )
    without = found["cost_without_alerts"]
    reading = (
        f"A missed fraud costs its amount, an alert {rule.review:g} for its review. Without any alert the held-out "
        f"days cost {without:,.2f}; at the threshold they cost {found['cost']:,.2f}, which saves {found['saved']:,.2f} "
        f"({percent(found['saved'] / without) if without else '-'}). The validation days, on which the threshold costs "
        f"least, cost {chosen['cost']:,.2f} instead of {chosen['cost_without_alerts']:,.2f}; the best threshold for "
        f"the held-out days, known only afterwards, would have cost {best:,.2f} there. Thin lines are the cost a day "
        "without any alert."
    )
    if not found["saved"] and not (evaluation.validation.scores >= evaluation.threshold).any():
        reading += (
            " On the validation days no alert is worth its review, so the threshold lies above all of their scores."
        )
    return Chart("cost", "What reviews and missed frauds cost", reading, figure)


def _thinned(of: Levels) -> npt.NDArray[np.int64]:
    """At most ``CURVE_POINTS`` levels, denser where alerts are few, the first and the last included."""
    size = of.threshold.size
    return np.unique(np.geomspace(1, size, CURVE_POINTS).astype(np.int64)) - 1
