"""How well each feature alone separates frauds from honest transactions, and which features say the same.

Separation is measured by two statistics that do not depend on how common fraud is: the area under the ROC curve of the
feature taken as a score (Hanley and McNeil 1982), and the greatest distance between the two classes' distributions
(Kolmogorov and Smirnov). Both may therefore be taken on all frauds against a sample of the honest transactions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots
from sklearn.metrics import auc, roc_curve

from training.figures import (
    BLUE,
    GREY,
    TOP,
    TWO_SIDED,
    VERMILION,
    Chart,
    Note,
    Part,
    class_outlines,
    class_shares,
    counted,
    percent,
    style,
    whole,
)

HONEST_SAMPLE: Final = 100_000
FRAUD_SAMPLE: Final = 50_000
CORRELATION_SAMPLE: Final = 20_000
SHOWN_BARS: Final = 50
SHOWN_CORRELATIONS: Final = 18
SHOWN_DISTRIBUTIONS: Final = 6
BINS: Final = 40
SEED: Final = 20_180_401
SAME: Final = 0.95  # rank correlation from which one of two features hardly adds anything


@dataclass(frozen=True)
class Sample:
    """Rows of both classes. ``values`` float32 [n, F] (NaN = missing), ``fraud`` bool [n], ``names`` F names.

    ``weight`` float64 [n]: how many rows of the history a row stands for.
    """

    values: npt.NDArray[np.float32]
    fraud: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Separation:
    """One feature against the label. ``auc`` is at least one half; ``rises`` says whether high values mean fraud.

    ``missing`` and ``missing_frauds`` are shares of one. ``auc`` and ``ks`` are NaN where a class has no value.
    """

    name: str
    auc: float
    ks: float
    rises: bool
    missing: float
    missing_frauds: float


def sample(features: pl.DataFrame, is_fraud: pl.Series) -> Sample:
    """All frauds and the honest rows, each up to its limit, drawn without replacement under a fixed seed."""
    generator = np.random.default_rng(SEED)
    fraud = is_fraud.to_numpy()
    kept, weights = [], []
    for rows, limit in ((np.flatnonzero(fraud), FRAUD_SAMPLE), (np.flatnonzero(~fraud), HONEST_SAMPLE)):
        chosen = rows if rows.size <= limit else generator.choice(rows, limit, replace=False)
        kept.append(chosen)
        weights.append(np.full(chosen.size, rows.size / max(1, chosen.size)))
    index = np.concatenate(kept)
    order = np.argsort(index)
    values = features[index[order]].to_numpy().astype(np.float32)
    return Sample(values, fraud[index[order]], np.concatenate(weights)[order], tuple(features.columns))


def separations(rows: Sample) -> list[Separation]:
    """Every feature, the most separating first, those without any value in one class last."""
    found = [_separation(name, rows.values[:, i], rows) for i, name in enumerate(rows.names)]
    return sorted(found, key=lambda s: (-1.0 if math.isnan(s.auc) else s.auc, s.ks), reverse=True)


def _separation(name: str, column: npt.NDArray[np.float32], rows: Sample) -> Separation:
    present = np.isfinite(column)
    missing = 1 - np.average(present, weights=rows.weight)
    missing_frauds = 1 - float(present[rows.fraud].mean())
    y, value = rows.fraud[present], column[present]
    if not y.any() or y.all():
        return Separation(name, math.nan, math.nan, True, float(missing), missing_frauds)
    false_alarms, hits, _ = roc_curve(y, value)
    area = float(auc(false_alarms, hits))
    ks = float(np.abs(hits - false_alarms).max())
    return Separation(name, max(area, 1 - area), ks, area >= 0.5, float(missing), missing_frauds)


def feature_parts(features: pl.DataFrame, is_fraud: pl.Series) -> list[Part]:
    """What the features say before any model: separation, distributions and correlations.

    ``features`` [n, F] and ``is_fraud`` Boolean [n] belong to the same rows.
    """
    if is_fraud.n_unique() < 2:
        missing = "frauds" if not is_fraud.any() else "honest transactions"
        reading = f"The history has no {missing}, so features cannot be compared between the classes."
        return [Note("separation", "What each feature separates", reading)]
    rows = sample(features, is_fraud)
    ranking = separations(rows)
    best = [s for s in ranking if not math.isnan(s.auc)]
    return [separation_chart(ranking, rows), distributions(best, rows), correlations(best, features)]


def separation_chart(ranking: list[Separation], rows: Sample) -> Chart:
    """Area under the ROC curve, Kolmogorov-Smirnov distance and missing share of each feature, in three panels."""
    shown = ranking[:SHOWN_BARS]
    names = [s.name for s in shown]
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, column_widths=[0.5, 0.3, 0.2], horizontal_spacing=0.05)
    for rises, color, meaning in ((True, VERMILION, "high values mean fraud"), (False, BLUE, "low values mean fraud")):
        group = [s for s in shown if s.rises is rises and not math.isnan(s.auc)]
        bar = go.Bar(x=[s.auc - 0.5 for s in group], base=0.5, y=[s.name for s in group], orientation="h")
        bar.update(customdata=[s.auc for s in group], hovertemplate="AUC %{customdata:.3f}")
        bar.update(marker_color=color, name=meaning)
        figure.add_trace(bar, row=1, col=1)
    ks = go.Bar(x=[s.ks for s in shown], hovertemplate="KS %{x:.3f}<extra></extra>")
    missing = go.Bar(x=[100 * s.missing for s in shown], customdata=[percent(s.missing_frauds) for s in shown])
    missing.update(hovertemplate="missing in %{x:.1f} % of all rows, in %{customdata} of the frauds<extra></extra>")
    for col, bar in ((2, ks), (3, missing)):
        bar.update(y=names, orientation="h", marker_color=GREY, showlegend=False)
        figure.add_trace(bar, row=1, col=col)
    style(figure, 126 + 16 * len(shown))
    figure.update_layout(barmode="overlay", bargap=0.3)
    order = {"categoryorder": "array", "categoryarray": names, "range": [len(names) - 0.4, -0.6]}
    figure.update_yaxes(**order, dtick=1, tickfont_size=10, showgrid=False)
    figure.update_xaxes(range=[0.5, 1], tick0=0.5, dtick=0.1, title_text="area under the ROC curve (AUC)", row=1, col=1)
    figure.update_xaxes(range=[0, 1], title_text="KS distance", dtick=0.5, row=1, col=2)
    figure.update_xaxes(range=[0, 100], title_text="missing (%)", dtick=50, row=1, col=3)
    return Chart("separation", "What each feature separates on its own", _separation_reading(ranking, rows), figure)


def _separation_reading(ranking: list[Separation], rows: Sample) -> str:
    best, honest = ranking[0], int((~rows.fraud).sum())
    weak = sum(s.auc < 0.52 for s in ranking)
    reading = (
        f"The area under the ROC curve is 0.5 for a feature that says nothing and 1 for one that separates perfectly. "
        f"Best alone is {best.name} with {best.auc:.3f}; {counted(weak, 'feature')} of {whole(len(ranking))} "
        f"{'stays' if weak == 1 else 'stay'} below 0.52. Measured on {counted(int(rows.fraud.sum()), 'fraud')} "
        f"and {counted(honest, 'honest transaction')}"
    )
    reading += " (a random sample)." if rows.weight.max() > 1 else "."
    empty = sum(math.isnan(s.auc) for s in ranking)
    if empty:
        reading += f" {counted(empty, 'feature')} without a value in one of the classes cannot be measured."
    if len(ranking) > SHOWN_BARS:
        reading += f" The figure shows the best {SHOWN_BARS}."
    return reading


def distributions(best: list[Separation], rows: Sample) -> Part:
    """Histograms of the most separating features, one panel each."""
    title = "The most separating features"
    if not best:
        return Note("distributions", title, "No feature has values in both classes.")
    shown = best[:SHOWN_DISTRIBUTIONS]
    columns = 2
    lines = math.ceil(len(shown) / columns)
    figure = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=[s.name for s in shown],
        horizontal_spacing=0.08,
        vertical_spacing=0.32 / lines,
    )
    for position, feature in enumerate(shown):
        column = rows.values[:, rows.names.index(feature.name)]
        row, col = position // columns + 1, position % columns + 1
        present = np.isfinite(column)
        edges = _edges(column[present])
        middles = (edges[1:] + edges[:-1]) / 2
        shares = [class_shares(column[present & of_class], edges) for of_class in (~rows.fraud, rows.fraud)]
        for outline in class_outlines(middles, shares[0], shares[1], "%{y:.1f} % near %{x:,.4~g}"):
            figure.add_trace(outline.update(showlegend=position == 0), row=row, col=col)
    style(figure, 110 + 210 * lines)
    figure.update_layout(legend_y=1 + 26 / (210 * lines))
    figure.update_annotations(font_size=12)
    figure.update_yaxes(title_text="share of the class (%)", col=1, rangemode="tozero")
    figure.update_yaxes(rangemode="tozero", col=2)
    widest = max(shown, key=lambda s: s.ks)
    reading = (
        "Where the two outlines part, the feature tells frauds from honest transactions. The widest gap is that of "
        f"{widest.name}: above one cut of its values the shares of the two classes differ by {100 * widest.ks:.0f} "
        "percentage points (the KS distance). The lowest and highest 0.5 % are in the outer bins; missing values are "
        "left out."
    )
    return Chart("distributions", title, reading, figure)


def _edges(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    low, high = (float(q) for q in np.quantile(values, (0.005, 0.995)))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        return np.array([low - 0.5, high + 0.5])
    return np.linspace(low, high, BINS + 1)


def correlations(best: list[Separation], features: pl.DataFrame) -> Part:
    """Rank correlations (Spearman) of the most separating features, on rows where both have a value."""
    title = "Which features say the same"
    drawn = features.sample(min(features.height, CORRELATION_SAMPLE), seed=SEED)
    moving = [s.name for s in best if drawn[s.name].drop_nans().n_unique() > 1][:SHOWN_CORRELATIONS]
    if len(moving) < 2:
        return Note("correlations", title, "Fewer than two features vary, so there is nothing to correlate.")
    rows = drawn.select(moving)
    matrix = np.eye(len(moving))
    for i, first in enumerate(moving):
        for j in range(i):
            both = rows.select(first, moving[j]).filter(pl.all_horizontal(pl.all().is_finite()))
            value = both.select(pl.corr(first, moving[j], method="spearman")).item() if both.height > 1 else None
            matrix[i, j] = matrix[j, i] = math.nan if value is None else value
    heat = go.Heatmap(
        z=matrix,
        x=moving,
        y=moving,
        zmin=-1,
        zmax=1,
        colorscale=TWO_SIDED,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": "rank<br>correlation"}, "thickness": 12, "len": 0.6},
        hovertemplate="%{y}<br>%{x}<br>%{z:.2f}<extra></extra>",
    )
    figure = style(go.Figure(heat), 200 + 26 * len(moving))
    figure.update_layout(margin_t=TOP)
    figure.update_yaxes(autorange="reversed", dtick=1, tickfont_size=10, showgrid=False)
    figure.update_xaxes(tickangle=-60, dtick=1, tickfont_size=10, showgrid=False)
    pairs = np.nan_to_num(np.abs(np.tril(matrix, -1)))
    i, j = divmod(int(pairs.argmax()), len(moving))
    same = int((pairs >= SAME).sum())
    reading = (
        f"The closest pair is {moving[i]} and {moving[j]} ({matrix[i, j]:.2f}); {counted(same, 'pair')} reach "
        f"{SAME} or more, where one of the two hardly adds anything. On "
        f"{counted(rows.height, 'row')}{' drawn at random' if rows.height < features.height else ''}."
    )
    return Chart("correlations", title, reading, figure)
