"""The tables that ``python -m bench.quality`` prints."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench.contest import CHAMPION, OUR_DAYS, TO_BEAT, Row
from bench.outcome import Block, Outcome, average, differences
from bench.published import METRICS
from training.evaluate import CARDS

WIDTH = 170  # what the widest table takes; a narrower page wraps its lines, which loses no figure
TITLES = ("AUC ROC", "avg. precision", f"CP@{CARDS}")


def show(outcome: Outcome, console: Console, *, verbose: bool) -> None:
    """Prints everything; ``verbose`` adds each week."""
    for block in (outcome.chapter_3, outcome.test, outcome.validation):
        if block is None:
            continue
        console.print(table_of(block, published=outcome.handbook))
        if verbose:
            for metric, title in zip(METRICS, TITLES, strict=True):
                console.print(_by_week(block, metric, title))
        if block is not outcome.chapter_3:
            _show_differences(block, console)
    if outcome.ablation:
        console.print(_ablation(outcome))


def table_of(block: Block, *, published: bool) -> Table:
    """The rows of a block, means and deviations over its weeks; ``published`` figures in a column of their own."""
    table = Table(title=f"{block.title}: {_weeks(block)}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    table.add_column("features", no_wrap=True)
    table.add_column("learns from", no_wrap=True)
    columns = [*TITLES, *(["published"] if published else []), "fit s", "µs/row"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in block.rows:
        cells = [_cell(row, metric) for metric in METRICS]
        if published:
            cells.append(" / ".join(f"{row.published[metric][0]:.4g}" for metric in METRICS if metric in row.published))
        seconds = average([week.fit_seconds for week in row.weeks])
        microseconds = average([week.row_microseconds for week in row.weeks])
        cells += ["" if seconds is None else f"{seconds:.1f}", "" if microseconds is None else f"{microseconds:.1f}"]
        emphasis = row.contestant.learns == OUR_DAYS and row.contestant.model in (CHAMPION, TO_BEAT)
        who = row.contestant
        table.add_row(who.model, who.features, who.learns, *cells, style="bold" if emphasis else None)
    return table


def _cell(row: Row, metric: str) -> str:
    if not row.weeks:
        return ""
    values = row.values(metric)
    if np.isnan(values).any():
        return "-"  # a week without frauds has no value
    return f"{values.mean():.4f} ±{values.std():.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def _by_week(block: Block, metric: str, title: str) -> Table:
    table = Table(title=f"{title}, week by week", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("model", "features", "learns from"):
        table.add_column(column, no_wrap=True)
    for start in block.starts:
        table.add_column(f"{start:%Y-%m-%d}", justify="right", no_wrap=True)
    for row in block.rows:
        if row.weeks:
            cells = [
                f"{week.figures[metric]:.4f}" + (f" {week.candidate}" if week.candidate else "") for week in row.weeks
            ]
            table.add_row(row.contestant.model, row.contestant.features, row.contestant.learns, *cells)
    return table


def _show_differences(block: Block, console: Console) -> None:
    for title, difference in zip(TITLES, differences(block), strict=True):
        by_week = " ".join(f"{value:+.4f}" for value in difference.by_week)
        console.print(
            f"{title:<14}  our {CHAMPION} less {TO_BEAT}: {difference.mean:+.4f} ±{difference.deviation:.4f}, "
            f"{difference.wins} won, {difference.losses} lost ({by_week})"
        )


def _ablation(outcome: Outcome) -> Table:
    assert outcome.validation
    everything = outcome.ablation[0].everything
    title = (
        f"What groups of features bring: average precision of XGBoost on the validation weeks, "
        f"{np.mean(everything):.4f} ±{np.std(everything):.4f} with all {outcome.contest.ours.width}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("group", no_wrap=True)
    for column in ("features", "without it", "it alone"):
        table.add_column(column, justify="right", no_wrap=True)
    for ablated in outcome.ablation:
        lost, short = (np.subtract(values, everything) for values in (ablated.without, ablated.alone))
        table.add_row(
            ablated.group,
            str(ablated.features),
            f"{lost.mean():+.4f} ±{lost.std():.4f}",
            f"{short.mean():+.4f} ±{short.std():.4f}",
        )
    return table


def _weeks(block: Block) -> str:
    return "week of " + ", ".join(f"{start:%Y-%m-%d}" for start in block.starts)
