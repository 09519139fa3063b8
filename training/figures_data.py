"""What a history looks like before any model: its size, days, amounts, hours and kinds of fraud.

Every function takes the canonical frame of ``training.history.load`` and leaves it alone. Counts cover every row;
figures hold binned counts only, so that their size does not grow with the history.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from training.figures import (
    BLUE,
    FRAUD,
    GREY,
    HONEST,
    MINOR_UNITS,
    Chart,
    Note,
    Part,
    Table,
    color_of,
    counted,
    label,
    money,
    percent,
    style,
    whole,
)

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
AMOUNT_BINS: Final = 60
AMOUNT_QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
NIGHT_ENDS: Final = 6  # the last hour of the night, as in the feature of that name


def data_parts(history: pl.DataFrame) -> list[Part]:
    """The parts of the report that need no feature and no model, in the order of the page."""
    return [facts(history), by_day(history), amounts(history), clock(history), scenarios(history)]


def facts(history: pl.DataFrame) -> Table:
    """The size of the history and how rare fraud is in it."""
    first, last = history["timestamp"].min(), history["timestamp"].max()
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
        ("amount of all transactions", money(history["amount"].sum())),
        ("amount of the frauds", money(frauds["amount"].sum())),
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


def by_day(history: pl.DataFrame) -> Chart:
    """Transactions and frauds over time, by hour, day or week as the span demands; frauds by scenario when known."""
    days = (history["timestamp"].max() - history["timestamp"].min()).days + 1  # type: ignore[operator,union-attr]
    every, unit = ("1h", "hour") if days <= 3 else ("1d", "day") if days <= 400 else ("1w", "week")
    start = history.select(pl.col("timestamp").dt.truncate(every).alias("start"), "is_fraud", _kind(history))
    ends = start["start"].min(), start["start"].max()
    grid = pl.select(start=pl.datetime_range(*ends, every, time_zone="UTC", time_unit="us"))

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
    figure.update_layout(barmode="stack", bargap=0.1, hovermode="x unified")
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
    smallest = 1 / MINOR_UNITS
    edges = np.geomspace(smallest, max(float(amount.max()), 10 * smallest) * 1.0001, AMOUNT_BINS + 1)
    middles = np.sqrt(edges[1:] * edges[:-1])
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.24, row_heights=[0.6, 0.4])
    for name, rows, color in (("honest", ~fraud, HONEST), ("fraud", fraud, FRAUD)):
        if rows.any():
            counts, _ = np.histogram(np.clip(amount[rows], edges[0], edges[-1]), edges)
            shares = 100 * counts / rows.sum()
            line = {"color": color, "shape": "hvh", "width": 2, "dash": "solid" if name == "honest" else "dash"}
            hover = "%{y:.2f} % of the class near %{x:,.2f}"
            figure.add_scatter(x=middles, y=shares, name=name, line=line, fill="tozeroy", hovertemplate=hover)
    figure.update_xaxes(type="log", title_text="amount (major units, logarithmic)", row=1, col=1)
    figure.update_yaxes(title_text="share of the class (%)", rangemode="tozero", row=1, col=1)
    names, counts, frauds = amount_bands(history["amount"].to_numpy(), fraud)
    rates = [100 * f / n for f, n in zip(frauds, counts, strict=True)]
    detail = [f"{whole(f)} of {whole(n)}" for f, n in zip(frauds, counts, strict=True)]
    hover = "%{x}: %{y:.2f} % (%{customdata})<extra></extra>"
    bar = go.Bar(x=names, y=rates, customdata=detail, marker_color=FRAUD, showlegend=False, hovertemplate=hover)
    figure.add_trace(bar, row=2, col=1)
    figure.update_xaxes(title_text="amount (major units)", type="category", row=2, col=1)
    figure.update_yaxes(title_text="frauds (%)", row=2, col=1)
    style(figure, 520)
    reading = _amounts_reading(history, names, rates)
    unusual = int((history["amount"] <= 0).sum())
    if unusual:
        reading += f" {counted(unusual, 'amount')} of zero or below {'is' if unusual == 1 else 'are'} in the first bin."
    return Chart("amounts", "Amounts, honest and fraudulent", reading, figure)


def amount_bands(minor: np.ndarray, fraud: np.ndarray) -> tuple[list[str], list[int], list[int]]:
    """Bands between quantiles of the amount, narrow at the top: their names, rows and frauds. ``minor`` int64 [n]."""
    cuts = np.unique(np.quantile(minor, AMOUNT_QUANTILES, method="higher"))
    band = np.searchsorted(cuts, minor, side="left")
    names = [f"up to {_short(cuts[0])}", *(f"{_short(a)} to {_short(b)}" for a, b in zip(cuts, cuts[1:], strict=False))]
    names.append(f"over {_short(cuts[-1])}")
    counts = np.bincount(band, minlength=len(names))
    frauds = np.bincount(band, weights=fraud, minlength=len(names))
    kept = np.flatnonzero(counts)
    return [names[i] for i in kept], [int(counts[i]) for i in kept], [int(frauds[i]) for i in kept]


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
            bar = go.Bar(x=ticks, y=shares, name=name, marker_color=color, hovertemplate=hover, showlegend=position == 1)
            figure.add_trace(bar.update(legendgroup=name), row=1, col=position)
    style(figure, 340)
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(title_text="hour of the day (UTC)", dtick=3, row=1, col=1)
    figure.update_xaxes(title_text="weekday (UTC)", row=1, col=2)
    figure.update_yaxes(title_text="share of the class (%)", row=1, col=1)

    def nightly(rows: pl.DataFrame) -> str:
        return percent(float((rows["hour"] <= NIGHT_ENDS).mean() or 0)) if rows.height else "none"  # type: ignore[arg-type]

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


def _amounts_reading(history: pl.DataFrame, bands: list[str], rates: list[float]) -> str:
    median = {flag: history.filter(pl.col("is_fraud") == flag)["amount"].median() for flag in (False, True)}
    if median[False] is None or median[True] is None:
        only = "fraudulent" if median[False] is None else "honest"
        return f"All transactions are {only}; their median amount is {money(history['amount'].median())}."
    top = int(np.argmax(rates))
    return (
        f"The median amount is {money(median[False])} for honest and {money(median[True])} for fraudulent transactions. "
        f"Frauds are densest in the band {bands[top]}, with {percent(rates[top] / 100)} of its transactions (lower panel)."
    )
