"""What a history looks like before any model: its size, days, amounts, hours and kinds of fraud.

Every function takes the canonical frame of ``features.history.load`` and leaves it alone. Counts cover every row;
figures hold binned counts only, so that their size does not grow with the history.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from training.figures import (
    FRAUD,
    GREY,
    HONEST,
    Chart,
    Note,
    Part,
    Table,
    class_outlines,
    class_shares,
    color_of,
    counted,
    label,
    money,
    percent,
    style,
    whole,
)
from training.thresholds import MINOR_UNITS

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
AMOUNT_BINS: Final = 50
LOWEST_AMOUNTS: Final = 0.001  # share of the amounts that the first bin takes in, zero and refunds included
AMOUNT_QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
NIGHT_ENDS: Final = 6  # the last hour of the night, as in the feature of that name


def data_parts(history: pl.DataFrame) -> list[Part]:
    """The parts of the report that need no feature and no model, in the order of the page."""
    return [facts(history), by_day(history), amounts(history), clock(history), scenarios(history)]


def facts(history: pl.DataFrame) -> Table:
    """The size of the history and how rare fraud is in it."""
    first, last = span(history)
    frauds = history.filter(pl.col("is_fraud"))
    days = history["timestamp"].dt.date().n_unique()
    rows = [
        ("transactions", whole(history.height)),
        ("first", f"{first:%Y-%m-%d %H:%M:%S} UTC"),
        ("last", f"{last:%Y-%m-%d %H:%M:%S} UTC"),
        ("days with transactions", whole(days)),
        ("transactions a day", whole(history.height / days)),
        ("accounts", whole(history["account_id"].n_unique())),
        ("merchants", whole(history["merchant_id"].n_unique())),
        ("frauds", f"{whole(frauds.height)} ({percent(frauds.height / history.height)})"),
        ("accounts with a fraud", whole(frauds["account_id"].n_unique())),
        ("merchants with a fraud", whole(frauds["merchant_id"].n_unique())),
        ("amount of all transactions", money(int(history["amount"].sum()))),
        ("amount of the frauds", money(int(frauds["amount"].sum()))),
    ]
    for column in ("transaction_type", "location", "device_id"):
        missing = history[column].null_count() / history.height if column in history.columns else 1.0
        rows.append((f"{column} missing", percent(missing)))
    odds = history.height / frauds.height if frauds.height else 0
    reading = (
        f"One transaction in {whole(odds)} is a fraud, so a model that never raises an alert is right in "
        f"{percent(1 - frauds.height / history.height)} of all cases: accuracy says nothing here."
        if frauds.height
        else "No transaction is labelled as fraud, so nothing below can compare frauds with honest transactions."
    )
    return Table("facts", "The history", reading, ("", ""), tuple(rows))


def span(history: pl.DataFrame) -> tuple[datetime, datetime]:
    """The first and the last instant of a history with rows."""
    first, last = history.select(pl.col("timestamp").min(), pl.col("timestamp").max().alias("last")).row(0)
    return first, last


def by_day(history: pl.DataFrame) -> Chart:
    """Transactions and frauds over time, by hour, day or week as the span demands; frauds by scenario when known."""
    first, last = span(history)
    days = (last - first).days + 1
    every, unit = ("1h", "hour") if days <= 3 else ("1d", "day") if days <= 400 else ("1w", "week")
    start = history.select(pl.col("timestamp").dt.truncate(every).alias("start"), "is_fraud", _kind(history))
    unbroken = pl.datetime_range(pl.col("start").min(), pl.col("start").max(), every)
    grid = start.select(unbroken.alias("start"))

    def count(rows: pl.DataFrame) -> list[int]:
        counts = rows.group_by("start").len()
        return grid.join(counts, on="start", how="left", maintain_order="left")["len"].fill_null(0).to_list()

    at = grid["start"].dt.replace_time_zone(None).to_list()
    total, frauds = count(start), start.filter(pl.col("is_fraud"))
    kinds = frauds["kind"].value_counts().sort("count", "kind", descending=[True, False])["kind"].to_list()
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    figure.add_bar(x=at, y=total, name="all transactions", marker_color=GREY, row=1, col=1)
    for position, kind in enumerate(kinds):
        color = FRAUD if len(kinds) == 1 else color_of(position)
        part = count(frauds.filter(pl.col("kind") == kind))
        figure.add_bar(x=at, y=part, name=label(kind), marker_color=color, row=2, col=1)
    style(figure, 440)
    figure.update_layout(barmode="stack", bargap=0.1, legend_traceorder="normal", hovermode="x unified")
    figure.update_yaxes(title_text=f"transactions a {unit}", row=1, col=1)
    figure.update_yaxes(title_text=f"frauds a {unit}", row=2, col=1)
    figure.update_xaxes(title_text=f"{unit} (UTC)", row=2, col=1)
    by_unit = np.array(count(frauds))
    reading = (
        f"The median {unit} has {counted(np.median(total), 'transaction')} and {counted(np.median(by_unit), 'fraud')}; "
        f"frauds range from {whole(by_unit.min())} to {whole(by_unit.max())} a {unit}. A level that jumps speaks of an "
        "attack or of a change in how the data were collected, and not of a pattern that lasts."
    )
    return Chart("by_day", f"Transactions and frauds by {unit}", reading, figure)


def amounts(history: pl.DataFrame) -> Chart:
    """How amounts are spread in each class (logarithmic bins), and the share of frauds by band of amount."""
    amount = history["amount"].to_numpy() / MINOR_UNITS
    fraud = history["is_fraud"].to_numpy()
    lowest = max(float(np.quantile(amount, LOWEST_AMOUNTS)), 1 / MINOR_UNITS)
    edges = np.geomspace(lowest, max(float(amount.max()), 10 * lowest), AMOUNT_BINS + 1)
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.24, row_heights=[0.6, 0.4])
    shares = [class_shares(amount[rows], edges) for rows in (~fraud, fraud)]
    hover = "%{y:.2f} % of the class near %{x:,.2f}"
    for outline in class_outlines(np.sqrt(edges[1:] * edges[:-1]), shares[0], shares[1], hover):
        figure.add_trace(outline, row=1, col=1)
    figure.update_xaxes(type="log", title_text="amount (major units, logarithmic)", row=1, col=1)
    figure.update_yaxes(title_text="share of the class (%)", rangemode="tozero", row=1, col=1)
    names, band = amount_bands(history["amount"].to_numpy())
    rows_in, frauds_in = np.bincount(band, minlength=len(names)), np.bincount(band[fraud], minlength=len(names))
    rates = 100 * frauds_in / np.maximum(rows_in, 1)
    detail = [f"{whole(f)} of {whole(n)}" for f, n in zip(frauds_in, rows_in, strict=True)]
    bar = go.Bar(x=names, y=rates, customdata=detail, marker_color=FRAUD, showlegend=False)
    bar.update(hovertemplate="%{x}: %{y:.2f} % (%{customdata})<extra></extra>")
    bar.update(text=[percent(rate / 100) for rate in rates], textposition="outside", cliponaxis=False)
    figure.add_trace(bar, row=2, col=1)
    figure.update_xaxes(title_text="amount (major units)", type="category", row=2, col=1)
    figure.update_yaxes(title_text="frauds (%)", row=2, col=1)
    style(figure, 520)
    reading = _amounts_reading(history, names, rates)
    below = int((amount < lowest).sum())
    if below:
        reading += f" The first bin also holds {counted(below, 'amount')} below {lowest:,.2f}."
    return Chart("amounts", "Amounts, honest and fraudulent", reading, figure)


def amount_bands(minor: npt.NDArray[np.int64]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Bands between quantiles of the amount, narrow at the top: their names, and the band of each row int64 [n]."""
    cuts = np.unique(np.quantile(minor, AMOUNT_QUANTILES, method="higher"))
    between = [f"{_short(a)} to {_short(b)}" for a, b in itertools.pairwise(cuts)]
    return [f"up to {_short(cuts[0])}", *between, f"over {_short(cuts[-1])}"], np.searchsorted(cuts, minor)


def clock(history: pl.DataFrame) -> Chart:
    """The hours (UTC) and weekdays of each class."""
    when = history.select(
        pl.col("timestamp").dt.hour().cast(pl.Int64).alias("hour"),
        (pl.col("timestamp").dt.weekday().cast(pl.Int64) - 1).alias("weekday"),
        "is_fraud",
    )
    figure = make_subplots(rows=1, cols=2, column_widths=[0.68, 0.32], horizontal_spacing=0.09, shared_yaxes=False)
    for name, flag, color in (("honest", False, HONEST), ("fraud", True, FRAUD)):
        rows = when.filter(pl.col("is_fraud") == flag)
        if rows.is_empty():
            continue
        for column, ticks, position in (("hour", list(range(24)), 1), ("weekday", list(WEEKDAYS), 2)):
            shares = 100 * np.bincount(rows[column].to_numpy(), minlength=len(ticks)) / rows.height
            hover = "%{x}: %{y:.1f} % of the class"
            bar = go.Bar(x=ticks, y=shares, name=name, legendgroup=name, marker_color=color, hovertemplate=hover)
            figure.add_trace(bar.update(showlegend=position == 1), row=1, col=position)
    style(figure, 340)
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(title_text="hour of the day (UTC)", dtick=3, row=1, col=1)
    figure.update_xaxes(title_text="weekday (UTC)", tickangle=0, tickfont_size=10, row=1, col=2)
    figure.update_yaxes(title_text="share of the class (%)", row=1, col=1)

    def nightly(rows: pl.DataFrame) -> str:
        return percent(rows.filter(pl.col("hour") <= NIGHT_ENDS).height / rows.height) if rows.height else "none"

    honest, fraud = when.filter(~pl.col("is_fraud")), when.filter(pl.col("is_fraud"))
    reading = (
        f"Between 00:00 and 06:59 fall {nightly(honest)} of the honest and {nightly(fraud)} of the fraudulent "
        "transactions. Where the two bars of an hour differ, the time of day tells something."
    )
    return Chart("clock", "Hours and weekdays", reading, figure)


def scenarios(history: pl.DataFrame) -> Part:
    """What kinds of fraud there are, when the history names them."""
    title = "Kinds of fraud"
    frauds = history.filter(pl.col("is_fraud"))
    if frauds["fraud_scenario"].null_count() == frauds.height:
        return Note("scenarios", title, "The history names no kinds of fraud (column fraud_scenario).")
    table = (
        frauds.group_by(_kind(frauds))
        .agg(
            pl.len(),
            pl.col("account_id").n_unique().alias("accounts"),
            pl.col("merchant_id").n_unique().alias("merchants"),
            pl.col("amount").median().alias("median"),
            pl.col("amount").sum().alias("lost"),
        )
        .sort("len", "kind", descending=[True, False])
    )
    rows = tuple(
        (str(kind), whole(n), percent(n / frauds.height), whole(accounts), whole(merchants), money(median), money(lost))
        for kind, n, accounts, merchants, median, lost in table.iter_rows()
    )
    reading = f"The most frequent kind, {rows[0][0]}, makes up {rows[0][2]} of the frauds. Amounts are in major units."
    header = ("kind", "frauds", "share", "accounts", "merchants", "median amount", "amount lost")
    return Table("scenarios", title, reading, header, rows)


def _kind(history: pl.DataFrame) -> pl.Expr:
    """The fraud's scenario as a name that is never null."""
    known = history["fraud_scenario"].null_count() < history.height
    return pl.col("fraud_scenario").fill_null("unnamed" if known else "fraud").alias("kind")


def _short(minor: float) -> str:
    """An amount for an axis: no decimals from a hundred up."""
    return whole(minor / MINOR_UNITS) if minor >= 100 * MINOR_UNITS else money(minor)


def _amounts_reading(history: pl.DataFrame, bands: list[str], rates: npt.NDArray[np.float64]) -> str:
    amount, fraud = history["amount"].to_numpy(), history["is_fraud"].to_numpy()
    if fraud.all() or not fraud.any():
        only = "fraudulent" if fraud.all() else "honest"
        return f"All transactions are {only}; their median amount is {money(np.median(amount))}."
    top = int(np.argmax(rates))
    return (
        f"The median amount is {money(np.median(amount[~fraud]))} for honest and {money(np.median(amount[fraud]))} for "
        f"fraudulent transactions. Frauds are densest in the band {bands[top]}, with {percent(rates[top] / 100)} of "
        "its transactions (lower panel)."
    )
