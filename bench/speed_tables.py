"""The speed benchmark as tables: on the terminal, and in Markdown for the README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench.latency import PERCENTILES
from bench.speed_results import Goal, Latency, Outcome, goals

WIDTH: Final = 160
Rows = list[tuple[str, ...]]
SPEEDS: Final = ("", "scored/s", "CPU s/million", "broker's", "memory MB", "after a crash")
LATENCIES: Final = (
    "", "accounts", "a second", "of what it can", *(f"p{p:g}" for p in PERCENTILES), "most", "samples",
    "alerts' p90", "alerts' p99", "alerts", "CPU s/million",
    "injector late",
    "cores busy",
    "load",
)  # fmt: skip
GOALS: Final = ("goal", "wanted", "found", "")


def speeds(outcome: Outcome) -> Rows:
    """A row for each contender, medians over its runs."""
    return [
        (
            c.title,
            f"{c.median('throughput'):,.0f}",
            f"{c.median('cpu'):,.0f}",
            f"{c.median('broker_cpu'):,.0f}",
            f"{c.median('memory') / 1e6:,.0f}",
            c.guarantee,
        )
        for c in outcome.contestants
    ]


def latency_rows(outcome: Outcome) -> Rows:
    """A row for each rate of live traffic; milliseconds."""
    titles = {c.name: c.title for c in outcome.contestants}
    return [
        (
            titles[found.contender],
            f"{found.accounts:,}",
            f"{found.rate:,.0f}",
            f"{100 * found.share:.0f} %",
            *("-" if p is None else milliseconds(p) for p in found.percentiles),
            milliseconds(found.most),
            f"{found.samples:,}",
            *("-" if p is None else milliseconds(p) for p in found.alert_percentiles[1:3]),
            f"{found.alerts:,}",
            f"{found.cpu:,.0f}",
            milliseconds(found.late),
            f"{found.busy:.1f}",
            f"{found.load:.1f}",
        )
        for found in outcome.latencies
    ]


def goal_rows(outcome: Outcome) -> Rows:
    """A row for each goal."""
    words = {True: "met", False: "not met", None: "not measured"}
    return [(g.text, _wanted(g), "-" if g.found is None else _found(g, g.found), words[g.met]) for g in goals(outcome)]


def growth_rows(outcome: Outcome) -> tuple[tuple[str, ...], Rows]:
    """Heading and rows: by longest window, and how many events a state holds."""
    events = sorted({g.events for g in outcome.growth})
    by_place = {(g.days, g.events): g.microseconds for g in outcome.growth}
    rows = [
        (f"{days} d", *(f"{by_place[days, n]:.1f}" for n in events))
        for days in sorted({g.days for g in outcome.growth})
    ]
    return ("longest window", *(f"{n:,} events" for n in events)), rows


def holding_rows(outcome: Outcome) -> Rows:
    """What states weigh."""
    return [
        (h.entity, f"{h.states:,}", f"{h.events:,}", f"{h.bytes_each:,.0f}", f"{h.process / 1e6:,.0f}")
        for h in outcome.holdings
    ]


HOLDINGS: Final = ("states of", "how many", "events each", "bytes each", "process MB")


def milliseconds(value: float) -> str:
    """With three digits or so."""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _wanted(goal: Goal) -> str:
    return f"{'at most' if goal.at_most else 'at least'} {goal.wanted:g} {goal.unit}"


def _found(goal: Goal, found: float) -> str:
    return f"{found:,.2f} {goal.unit}" if abs(found) < 10 else f"{found:,.1f} {goal.unit}"


def circumstances(outcome: Outcome) -> str:
    """One sentence on where and how disturbed it was measured."""
    runs = [run for c in outcome.contestants for run in c.runs]
    here = outcome.machine
    place = (
        f"{here.cores} cores ({here.cpu}), {here.memory / 2**30:.0f} GiB, {here.kernel}, the broker's log {here.log}, "
        f"{here.date}"
    )
    if not runs:
        return f"{place}."
    busy = sorted(run.others for run in runs)
    return (
        f"{place}; other programs kept {busy[0]:.1f} to {busy[-1]:.1f} cores busy (median {busy[len(busy) // 2]:.1f})."
    )


def markdown(outcome: Outcome) -> str:
    """The README's tables."""
    parts = [_marked(SPEEDS, speeds(outcome))] if outcome.contestants else []
    if outcome.latencies:
        heading = ("", *LATENCIES[1:])
        parts.append(_marked(heading, latency_rows(outcome)))
    if outcome.contestants:
        parts.append(_marked(GOALS, goal_rows(outcome)))
    left = [f"Left out: {name} ({why.splitlines()[0]})." for name, why in outcome.left_out.items()]
    versions = ", ".join(f"{name} {version}" for name, version in outcome.machine.versions.items())
    return "\n\n".join([*parts, circumstances(outcome), versions + ".", *left]) + "\n"


def _marked(heading: Sequence[str], rows: Rows) -> str:
    lines = [heading, ["---"] + ["--:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show(outcome: Outcome, console: Console) -> None:
    """Prints all tables."""
    if outcome.contestants:
        rounds = len(outcome.contestants[0].runs)
        _print(console, f"Throughput from a backlog, medians of {rounds}", SPEEDS, speeds(outcome))
    if outcome.latencies:
        title = "Milliseconds from the instant at which it was to be sent to its committed score"
        _print(console, title, LATENCIES, latency_rows(outcome))
    if outcome.growth:
        heading, rows = growth_rows(outcome)
        _print(console, "CPU microseconds of an account's features", heading, rows)
    if outcome.holdings:
        _print(console, "Memory", HOLDINGS, holding_rows(outcome))
    if outcome.soak:
        s = outcome.soak
        console.print(
            f"Memory under {s.rate:,.0f}/s: {s.slope / 1e6:+,.1f} MB an hour, 95 % within {s.error / 1e6:,.1f}"
        )
    if outcome.contestants:
        _print(console, "Goals", GOALS, goal_rows(outcome))
    console.print(circumstances(outcome))
    for name, why in outcome.left_out.items():
        console.print(f"Left out    {name}: {why.splitlines()[0]}")


def _print(console: Console, title: str, heading: Sequence[str], rows: Rows) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for nth, column in enumerate(heading):
        table.add_column(column, justify="right" if nth else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def latency_name(found: Latency, titles: dict[str, str]) -> str:
    """A short name of a rate of live traffic."""
    return f"{titles[found.contender]}, {found.accounts:,} accounts, {100 * found.share:.0f} %"
