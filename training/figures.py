"""How the report's figures look and how it writes numbers; the parts that a page is made of.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any form of colour blindness can
tell apart; candidates also differ in their dashes, so that a page printed in grey can still be read.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from training.thresholds import MINOR_UNITS

# What plotly.js is told wherever a figure is shown. By default it has a button that sends the figure's data to plotly's
# own cloud; a bank's figures stay where they are.
CONFIG: Final = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "modeBarButtonsToRemove": ["lasso2d", "select2d"],
}

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#8A9099"
DARK_GREY: Final = "#5B636D"
TOP: Final = 12  # pixels above a figure without a legend, title or panel titles

HONEST: Final = BLUE
FRAUD: Final = VERMILION
SERIES: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
TWO_SIDED: Final = [[0.0, BLUE], [0.5, "#F4F4F2"], [1.0, VERMILION]]  # a colour scale with a neutral middle


@dataclass(frozen=True)
class Chart:
    """A figure with the sentence that says how to read it. ``name`` is unique on a page and fit for a file name."""

    name: str
    title: str
    reading: str
    figure: go.Figure


@dataclass(frozen=True)
class Table:
    """A table of ready-written cells. ``emphasis`` is the number of the row to stand out."""

    name: str
    title: str
    reading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasis: int | None = None


@dataclass(frozen=True)
class Note:
    """What stands in the place of a figure that the data cannot give, and why."""

    name: str
    title: str
    reading: str


@dataclass(frozen=True)
class Reason:
    """Why a score is as it is: a sentence about a feature, and what that adds to the log odds."""

    feature: str
    sentence: str
    contribution: float


@dataclass(frozen=True)
class Card:
    """One transaction: what it was, pairs of facts, and reasons in the order in which they are to be read."""

    title: str
    kind: Literal["caught", "false_alarm", "missed"]
    facts: tuple[tuple[str, str], ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Cards:
    """Transactions, side by side where the page is wide enough."""

    name: str
    title: str
    reading: str
    cards: tuple[Card, ...]


Part = Chart | Table | Note | Cards
Points = Sequence[float] | Sequence[datetime] | npt.NDArray[np.float64]


def template(*, dark: bool) -> go.layout.Template:
    """The look of all figures, on a light or a dark page."""
    ink, grid, shade = ("#E3E6EA", "#343A43", "#20242B") if dark else ("#22262B", "#DFE3E8", "#FFFFFF")
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "automargin": True,
        "exponentformat": "none",
        "separatethousands": True,
        "title": {"standoff": 10, "font": {"size": 12}},
    }
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": ink},
            "colorway": list(SERIES),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {"bgcolor": shade, "bordercolor": grid, "font": {"color": ink}, "namelength": -1},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": ink},
            "margin": {"l": 60, "r": 20, "t": 44, "b": 50},
            "separators": ".,",
            "xaxis": axis,
            "yaxis": {**axis, "ticklabelstandoff": 4},
        }
    )


def style(figure: go.Figure, height: int) -> go.Figure:
    """Gives a figure the light look and its height in pixels; the width is the page's."""
    figure.update_layout(template=template(dark=False), height=height)
    return figure


def whole(value: float) -> str:
    """1754155 -> 1,754,155."""
    return f"{value:,.0f}"


def decimal(value: float) -> str:
    """A metric with four decimals, or with one where it is no share; a dash where there is none."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:,.1f}"


def percent(share: float) -> str:
    """A share of one, with more decimals near its ends: 0.0084 -> 0.84 %, 0.62 -> 62 %; a dash where there is none."""
    if math.isnan(share):
        return "-"
    value = 100 * share
    if value in {0, 100} or 10 <= value < 99:
        return f"{value:.0f} %"
    if value >= 99:
        return f"{math.floor(100 * value) / 100:.2f} %"  # never rounded up to a hundred that it is not
    return f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def money(minor: float) -> str:
    """Minor units as major units with two decimals: 5363 -> 53.63."""
    return f"{minor / MINOR_UNITS:,.2f}"


def counted(number: float, one: str, many: str | None = None) -> str:
    """``counted(1, "day")`` -> 1 day; ``counted(2, "day")`` -> 2 days."""
    return f"{whole(number)} {one if number == 1 else many or one + 's'}"


def spoken(name: str) -> str:
    """The name of a candidate or a metric as words: auc_roc -> AUC ROC."""
    return " ".join(word.upper() if word in {"auc", "roc", "k"} else word for word in name.split("_"))


def label(text: str) -> str:
    """A name that comes from the data, so that neither a page nor a figure reads markup in it."""
    return html.escape(text, quote=False)


def color_of(position: int) -> str:
    """The colour of the n-th series."""
    return SERIES[position % len(SERIES)]


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which stays within 0 and 1 for few trials; (0, 1) for none."""
    if trials == 0:
        return 0.0, 1.0
    z = 1.959964
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def bars_with_intervals(names: Sequence[str], hits: Sequence[float], trials: Sequence[float], unit: str) -> go.Bar:
    """Horizontal bars of ``hits / trials`` in percent with their 95 % intervals; ``unit`` names what is tried."""
    shares = [h / t if t else 0.0 for h, t in zip(hits, trials, strict=True)]
    ends = [wilson(h, t) for h, t in zip(hits, trials, strict=True)]
    return go.Bar(
        x=[100 * s for s in shares],
        y=list(names),
        orientation="h",
        marker_color=SKY,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (high - s) for s, (_, high) in zip(shares, ends, strict=True)],
            "arrayminus": [100 * (s - low) for s, (low, _) in zip(shares, ends, strict=True)],
            "color": DARK_GREY,
            "thickness": 1.5,
            "width": 3,
        },
        customdata=[f"{whole(h)} of {counted(t, unit)}" for h, t in zip(hits, trials, strict=True)],
        hovertemplate="%{y}: %{x:.1f} % (%{customdata})<extra></extra>",
        showlegend=False,
    )


def candidate_line(position: int, name: str, x: Points, y: Points) -> go.Scatter:
    """The curve of the candidate at ``position``, in its colour and dash."""
    line = {"color": SERIES[position % len(SERIES)], "dash": DASHES[position % len(DASHES)], "width": 2}
    return go.Scatter(x=x, y=y, mode="lines", name=label(name), legendgroup=name, line=line)


def class_shares(values: npt.NDArray[np.floating], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Percent of the values in each bin, those outside gathered in the outer bins; NaN where there are no values."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return 100 * counts / values.size if values.size else np.full(counts.size, np.nan)


def class_outlines(
    middles: npt.NDArray[np.float64], honest: npt.NDArray[np.float64], fraud: npt.NDArray[np.float64], hover: str
) -> list[go.Scatter]:
    """Two histograms with common bins: the honest as an area, the frauds as a line, so that neither hides the other."""
    area = {"line": {"color": HONEST, "shape": "hvh", "width": 1}, "fill": "tozeroy"}
    outline = {"line": {"color": FRAUD, "shape": "hvh", "width": 2.2}}
    looks = (("honest", honest, area), ("fraud", fraud, outline))
    return [
        go.Scatter(x=middles, y=y, name=name, legendgroup=name, mode="lines", hovertemplate=hover, **look)
        for name, y, look in looks
        if not np.isnan(y).any()
    ]


def threshold_marker(x: float, y: float, *, in_legend: bool) -> go.Scatter:
    """Where the champion's threshold lies on a curve."""
    marker = {"symbol": "circle-open", "size": 12, "color": GREY, "line": {"width": 2.5}}
    return go.Scatter(
        x=[x], y=[y], mode="markers", marker=marker, name="the threshold", legendgroup="threshold", showlegend=in_legend
    )
