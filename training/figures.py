"""How the report's figures look and how it writes numbers; the parts that a page is made of.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any form of colour blindness can
tell apart; candidates also differ in their dashes, so that a page printed in grey can still be read.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import plotly.graph_objects as go

MINOR_UNITS: Final = 100  # in one major unit

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#8A9099"

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


Part = Chart | Table | Note


def template(*, dark: bool) -> go.layout.Template:
    """The look of all figures, on a light or a dark page."""
    ink, grid, shade = ("#E3E6EA", "#343A43", "#20242B") if dark else ("#22262B", "#DFE3E8", "#FFFFFF")
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "automargin": True,
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
            "margin": {"l": 60, "r": 20, "t": 44, "b": 50},
            "separators": ".,",
            "xaxis": axis,
            "yaxis": axis,
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
    """A score or a metric with four decimals; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def percent(share: float) -> str:
    """A share of one with two to three figures: 0.0084 -> 0.84 %; a dash where there is none."""
    if math.isnan(share):
        return "-"
    value = 100 * share
    if value in (0, 100) or 10 <= abs(value) < 99.5:
        return f"{value:.0f} %"
    if abs(value) >= 1:
        return f"{value:.1f} %" if abs(value) < 99.5 else f"{value:.2f} %"
    return f"{value:.2g} %" if abs(value) >= 0.01 else f"{value:.1g} %"


def money(minor: float) -> str:
    """Minor units as major units with two decimals: 5363 -> 53.63."""
    return f"{minor / MINOR_UNITS:,.2f}"


def counted(number: float, one: str, many: str | None = None) -> str:
    """``counted(1, "day")`` -> 1 day; ``counted(2, "day")`` -> 2 days."""
    return f"{whole(number)} {one if number == 1 else many or one + 's'}"


def label(text: object) -> str:
    """A name that comes from the data, so that neither a page nor a figure reads markup in it."""
    return html.escape(str(text), quote=False)


def color_of(position: int) -> str:
    """The colour of the n-th series."""
    return SERIES[position % len(SERIES)]


def dash_of(position: int) -> str:
    """The dash of the n-th series."""
    return DASHES[position % len(DASHES)]


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which stays within 0 and 1 for few trials; (0, 1) for none."""
    if trials == 0:
        return 0.0, 1.0
    z = 1.959964
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def bars_with_intervals(
    names: Sequence[str], hits: Sequence[float], trials: Sequence[float], color: str, unit: str
) -> go.Bar:
    """Horizontal bars of ``hits / trials`` in percent with their 95 % intervals; ``unit`` names what is tried."""
    shares = [h / t if t else 0.0 for h, t in zip(hits, trials, strict=True)]
    ends = [wilson(h, t) for h, t in zip(hits, trials, strict=True)]
    return go.Bar(
        x=[100 * s for s in shares],
        y=list(names),
        orientation="h",
        marker_color=color,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * max(0.0, high - s) for s, (_, high) in zip(shares, ends, strict=True)],
            "arrayminus": [100 * max(0.0, s - low) for s, (low, _) in zip(shares, ends, strict=True)],
            "color": GREY,
            "thickness": 1.2,
            "width": 3,
        },
        customdata=[f"{whole(h)} of {counted(t, unit)}" for h, t in zip(hits, trials, strict=True)],
        hovertemplate="%{y}: %{x:.1f} % (%{customdata})<extra></extra>",
        showlegend=False,
    )
