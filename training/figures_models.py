"""How good the candidates are on held-out rows, whatever the threshold: metrics and curves."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from training.evaluate import CARDS, Evaluation
from training.figures import (
    GREY,
    Chart,
    Part,
    Table,
    candidate_line,
    class_outlines,
    class_shares,
    counted,
    decimal,
    label,
    percent,
    spoken,
    style,
    threshold_marker,
    whole,
)
from training.figures_calibration import calibration

CURVE_POINTS: Final = 600
LOW_SCORE: Final = 0.05
SCORE_BINS: Final = 25
CLOSE_UP: Final = 0.02  # of the honest rows: where a threshold can sensibly lie

ELSEWHERE: Final = {"brier_score", "cost", "cost_without_alerts", "saved"}  # the table has to fit a page

Floats = npt.NDArray[np.float64]


def model_parts(evaluation: Evaluation) -> list[Part]:
    """The parts about the candidates' quality; needs both classes among the held-out rows."""
    charts = (roc, precision_recall, calibration, score_spread)
    return [metrics(evaluation), *(chart(evaluation) for chart in charts)]


def metrics(evaluation: Evaluation) -> Table:
    """The metrics of every candidate, those that other parts of the page show left out; the champion stands out."""
    found = dict.fromkeys(metric for values in evaluation.metrics.values() for metric in values)
    names = [name for name in found if name not in ELSEWHERE]
    rows = tuple(
        (spoken(candidate), *(decimal(evaluation.metrics[candidate].get(name, math.nan)) for name in names))
        for candidate in evaluation.candidates
    )
    frauds, n = int(evaluation.y.sum()), evaluation.y.size
    reading = (
        f"Measured on {whole(n)} held-out transactions with {counted(frauds, 'fraud')} ({percent(frauds / n)}). "
        f"The champion is {spoken(evaluation.champion)}. Scores drawn at random reach an AUC of 0.5 and an average "
        f"precision of {decimal(frauds / n)}. Recall, precision and alerts a day are at each candidate's own threshold "
        f"for the budget ({evaluation.budget})."
    )
    header = ("candidate", *(spoken(name).replace(f" {CARDS}", f"@{CARDS}") for name in names))
    position = list(evaluation.candidates).index(evaluation.champion)
    return Table("metrics", "The candidates", reading, header, rows, emphasis=position)


def roc(evaluation: Evaluation) -> Chart:
    """Frauds caught against honest transactions flagged: whole, and its lowest two percent."""
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=("all thresholds", f"the first {100 * CLOSE_UP:g} %"), horizontal_spacing=0.11
    )
    areas = {}
    for position, (name, score) in enumerate(evaluation.candidates.items()):
        false_alarms, hits, _ = roc_curve(evaluation.y, score)
        areas[name] = float(roc_auc_score(evaluation.y, score))
        x, y = _thin(false_alarms, hits)
        near = np.searchsorted(x, CLOSE_UP, side="right") + 1
        for col, stop in ((1, x.size), (2, near)):
            line = candidate_line(position, f"{spoken(name)}, AUC {areas[name]:.3f}", x[:stop], y[:stop])
            figure.add_trace(line.update(showlegend=col == 1), row=1, col=col)
    alert = evaluation.candidates[evaluation.champion] >= evaluation.threshold
    caught, flagged = alert[evaluation.y].mean(), alert[~evaluation.y].mean()
    for col in (1, 2):
        figure.add_trace(threshold_marker(flagged, caught, in_legend=col == 1), row=1, col=col)
    chance = {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": {"color": GREY, "dash": "dot", "width": 1}}
    figure.add_scatter(**chance, showlegend=False, hoverinfo="skip", row=1, col=1)
    style(figure, 440)
    figure.update_annotations(font_size=12)
    figure.update_layout(legend_y=1.09, margin_t=70)
    figure.update_xaxes(title_text="honest transactions flagged (share)", range=[-0.01, 1.01], row=1, col=1)
    figure.update_xaxes(title_text="the same, enlarged", range=[-0.0004, CLOSE_UP], row=1, col=2)
    figure.update_yaxes(title_text="frauds caught (share)", row=1, col=1)
    figure.update_yaxes(range=[-0.01, 1.02])
    best = max(areas, key=lambda name: areas[name])
    reading = (
        "Each curve shows how many frauds are caught (up) for how many honest transactions flagged (right); the more "
        f"to the upper left, the better. {spoken(best)} has the largest area, {areas[best]:.3f}. At its threshold "
        f"{spoken(evaluation.champion)} catches {percent(caught)} of the frauds and flags {percent(flagged)} of the "
        "honest transactions."
    )
    return Chart("roc", "ROC curve", reading, figure)


def precision_recall(evaluation: Evaluation) -> Chart:
    """What share of the alerts is right, against the share of the frauds caught."""
    figure = go.Figure()
    averages = {}
    for position, (name, score) in enumerate(evaluation.candidates.items()):
        precision, recall, _ = precision_recall_curve(evaluation.y, score)
        averages[name] = float(average_precision_score(evaluation.y, score))
        x, y = _thin(recall[::-1], precision[::-1])
        figure.add_trace(candidate_line(position, f"{spoken(name)}, AP {averages[name]:.3f}", x, y))
    alert = evaluation.candidates[evaluation.champion] >= evaluation.threshold
    recall_at, base = alert[evaluation.y].mean(), evaluation.y.mean()
    precision_at = evaluation.y[alert].mean() if alert.any() else math.nan
    figure.add_trace(threshold_marker(recall_at, precision_at, in_legend=True))
    figure.add_hline(base, line={"color": GREY, "dash": "dot", "width": 1})
    style(figure, 420)
    figure.update_xaxes(title_text="frauds caught (recall, share)", range=[-0.01, 1.01])
    figure.update_yaxes(title_text="alerts that are right (precision, share)", range=[-0.01, 1.02])
    best = max(averages, key=lambda name: averages[name])
    reading = (
        f"The further to the upper right, the better; the dotted line at {percent(base)} is what alerts at random "
        f"reach. {spoken(best)} has the highest average precision, {averages[best]:.3f}. At the threshold "
        f"{percent(precision_at)} of the alerts are right and {percent(recall_at)} of the frauds are caught."
    )
    return Chart("precision_recall", "Precision and recall", reading, figure)


def score_spread(evaluation: Evaluation) -> Chart:
    """How the champion's scores are spread in each class, in percent on a logarithmic scale."""
    score = evaluation.candidates[evaluation.champion]
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    shares = [class_shares(score[rows], edges) for rows in (~evaluation.y, evaluation.y)]
    middles = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(class_outlines(middles, shares[0], shares[1], "%{y:.3f} % near a score of %{x:.2f}"))
    figure.add_vline(evaluation.threshold, line={"color": GREY, "dash": "dash", "width": 1.5})
    style(figure, 340)
    figure.update_xaxes(title_text=f"score of {label(spoken(evaluation.champion))}", range=[0, 1])
    figure.update_yaxes(title_text="share of the class (%, logarithmic)", type="log", dtick=1)
    low = score < LOW_SCORE
    reading = (
        f"{percent(low[~evaluation.y].mean())} of the honest transactions and {percent(low[evaluation.y].mean())} of "
        f"the frauds have a score below {LOW_SCORE}: frauds there look honest to the model. The dashed line is the "
        f"threshold, {decimal(evaluation.threshold)}; from there on a score raises an alert."
    )
    return Chart("score_spread", "Scores of the two classes", reading, figure)


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most ``CURVE_POINTS`` points of a curve within the unit square, evenly spaced along it, ends included."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    wanted = np.linspace(0, along[-1], CURVE_POINTS)
    kept = np.unique(np.concatenate([[0], np.searchsorted(along, wanted).clip(max=x.size - 1), [x.size - 1]]))
    return x[kept], y[kept]
