"""speed.html: the speed benchmark as one page, a sibling of the training report; it needs nothing but a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import plotly.graph_objects as go

from bench import speed_tables as tables
from bench.contenders import OURS, VIGIE
from bench.latency import BEHIND
from bench.speed_results import Latency, Outcome, Soak, goals
from training.figures import BLUE, DARK_GREY, DASHES, ORANGE, SERIES, SKY, Chart, Note, Part, Table, style, whole
from training.report import Sections, write_page

ROW: Final = 34  # pixels of a bar
HALF: Final = 0.5
PERCENTILE_TICKS: Final = {1: "0", 2: "50", 10: "90", 100: "99", 1000: "99.9", 10_000: "99.99", 100_000: "99.999"}
MEGA: Final = 1e6
CAPTION: Final = (
    "All read the same topic and score with the same graph (the naive one with the booster that it was made of). "
    "Vigie and the loop compute the features from the flow's arrays, the others from one state, a Python object, for "
    "each account and merchant. Before anything was timed, the scores of {checked} transactions of each were held "
    "against the batch's features and the graph: they are equal to "
    "1e-6, the naive one's to 1e-5. "
)


def page(outcome: Outcome, path: Path) -> None:
    """Writes it."""
    made: Sections = [
        ("Goals", [_goals(outcome)] if outcome.contestants else []),
        ("Throughput", _throughput(outcome) if outcome.contestants else []),
        ("Latency", _latency(outcome) if outcome.latencies else []),
        ("Growth", _growth(outcome)),
        ("Memory", _memory(outcome)),
        ("Setup", _setup(outcome)),
    ]
    title = "Vigie: speed beside its peers" if outcome.contestants else "Vigie: memory under steady traffic"
    write_page(path, title, tables.circumstances(outcome), [(name, parts) for name, parts in made if parts])


def _goals(outcome: Outcome) -> Table:
    judged = [goal.met for goal in goals(outcome)]
    said = f"{judged.count(True)} of {len(judged)} are met, {judged.count(None)} not measured in this run. "
    reading = (
        said + "A ratio is the median over the rounds of the ratios within a round, for others use the machine too."
    )
    return Table("goals", "What was to be reached", reading, tables.GOALS, tuple(tables.goal_rows(outcome)))


def _throughput(outcome: Outcome) -> list[Part]:
    rounds = max(len(c.runs) for c in outcome.contestants)
    caption = CAPTION.format(checked=whole(outcome.checked))
    table = Table(
        "speeds",
        "From a backlog",
        caption + f"Medians of {rounds} rounds in which the contenders took turns; the first fifth of a run is not "
        "counted. CPU seconds are of a contender's whole process tree, per million scores; the broker's stand apart.",
        tables.SPEEDS,
        tuple(tables.speeds(outcome)),
    )
    charts = [
        _bars(
            outcome,
            "throughput",
            "Scores a second",
            "The bar is the median, points are the rounds. The scale is logarithmic: from line to line it is tenfold.",
            unit="scores a second",
        ),
        _bars(
            outcome,
            "cpu",
            "CPU",
            "What a million scores cost, which other programs on the machine disturb less than scores a second. "
            "Shorter is better; logarithmic, too.",
            unit="CPU seconds a million scores",
        ),
        _bars(
            outcome,
            "memory",
            "Memory",
            "At most held by the process tree during a run; pages that processes share count for each. A run holds "
            "more the more transactions it has scored, so fast contenders hold more.",
            unit="MB",
            factor=1 / MEGA,
        ),
    ]
    return [table, *charts]


def _bars(outcome: Outcome, what: str, title: str, reading: str, *, unit: str, factor: float = 1) -> Chart:
    entered = outcome.contestants[::-1]
    figure = go.Figure(
        go.Bar(
            x=[c.median(what) * factor for c in entered],
            y=[c.title for c in entered],
            orientation="h",
            marker_color=[BLUE if c.name in OURS else SKY for c in entered],
            hovertemplate="%{y}: %{x:,.0f}<extra></extra>",
        )
    )
    points = [(getattr(run, what) * factor, c.title) for c in entered for run in c.runs if len(c.runs) > 1]
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="markers",
        marker={"color": ORANGE, "size": 6, "line": {"color": "white", "width": 1}},
        hovertemplate="%{y}: %{x:,.0f}<extra>one round</extra>",
    )
    figure.add_scatter(
        x=[max(getattr(run, what) for run in c.runs) * factor for c in entered],
        y=[c.title for c in entered],
        mode="text",
        text=[f"   {whole(c.median(what) * factor)}" for c in entered],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.update_layout(showlegend=False, bargap=0.35, margin={"t": 12, "r": 70})
    figure.update_xaxes(title_text=unit, type="log", dtick=1)
    return Chart(f"{what}_bars", title, reading, style(figure, 90 + ROW * len(entered)))


def _latency(outcome: Outcome) -> list[Part]:
    reading = (
        "Milliseconds from the instant at which a transaction was to be sent, on a schedule that no delay moves, to "
        "the instant at which a reader of committed data in another process held its score, and its alert. `of what "
        "it can`: the share of the contender's own throughput from a backlog, measured without an injector. A "
        f"percentile is exact, and given where at least {BEHIND} values lie beyond it. `cores busy` counts "
        "all that ran, injector, reader and broker, too: where no core was free, latency is that of a full machine."
    )
    rows = tuple(tables.latency_rows(outcome))
    parts: list[Part] = [Table("latencies", "Under live traffic", reading, tables.LATENCIES, rows)]
    ours = [found for found in outcome.latencies if found.contender == VIGIE]
    names = {c.name: c.title for c in outcome.contestants}
    if ours:
        labels = [f"{found.accounts:,} accounts, {100 * found.share:.0f} %" for found in ours]
        text = "Vigie with one process, a snapshot each second. Farther right are rarer, slower ones."
        parts.append(_curves("vigie_latency", "Vigie's distribution", text, ours, labels))
    fewest = min(found.accounts for found in outcome.latencies)
    alike = [found for found in outcome.latencies if found.share == HALF and found.accounts == fewest]
    if len(alike) > 1:
        labels = [f"{names[found.contender]}, {whole(found.rate)}/s" for found in alike]
        text = f"Each at half of its own saturation, {whole(fewest)} accounts."
        parts.append(_curves("peer_latency", "Beside the others", text, alike, labels))
    return parts


def _curves(name: str, title: str, reading: str, found: list[Latency], labels: list[str]) -> Chart:
    figure = go.Figure()
    kinds = (
        sorted({latency.accounts for latency in found}) if len({latency.contender for latency in found}) == 1 else []
    )
    for nth, (latency, label) in enumerate(zip(found, labels, strict=True)):
        color = SERIES[kinds.index(latency.accounts) % len(SERIES)] if kinds else SERIES[nth % len(SERIES)]
        figure.add_scatter(
            x=[inverse for inverse, _ in latency.curve],
            y=[value for _, value in latency.curve],
            name=label,
            mode="lines",
            line={"color": color, "dash": DASHES[nth % 3 if kinds else nth % len(DASHES)], "width": 2},
            hovertemplate="one in %{x:,.0f}: %{y:,.1f} ms",
        )
    ticks = {"tickvals": list(PERCENTILE_TICKS), "ticktext": list(PERCENTILE_TICKS.values())}
    figure.update_xaxes(type="log", title_text="percentile", **ticks)
    figure.update_yaxes(type="log", title_text="milliseconds", rangemode="tozero")
    figure.update_layout(margin_t=30 + 22 * ((len(found) + 2) // 3))
    return Chart(name, title, reading, style(figure, 420))


def _growth(outcome: Outcome) -> list[Part]:
    if not outcome.growth:
        return []
    figure = go.Figure()
    for nth, days in enumerate(sorted({g.days for g in outcome.growth})):
        line = sorted((g.events, g.microseconds) for g in outcome.growth if g.days == days)
        figure.add_scatter(
            x=[events for events, _ in line],
            y=[value for _, value in line],
            name=f"longest window {days} d",
            line={"color": SERIES[nth], "dash": DASHES[nth], "width": 2},
        )
    figure.update_xaxes(
        type="log", title_text="events that the state holds", tickvals=sorted({g.events for g in outcome.growth})
    )
    figure.update_yaxes(title_text="CPU microseconds", rangemode="tozero")
    reading = (
        "What all features of an account cost for one transaction, without Kafka and without the model, as the longest "
        "windows and the number of events in them grow. Flat is the goal."
    )
    parts: list[Part] = [Chart("windows_cost", "Windows", reading, style(figure, 340))]
    ours = sorted({f.accounts for f in outcome.latencies if f.contender == VIGIE})
    if len(ours) > 1:
        figure = go.Figure()
        for nth, share in enumerate(sorted({f.share for f in outcome.latencies if f.contender == VIGIE})):
            of = {f.accounts: f.cpu for f in outcome.latencies if f.contender == VIGIE and f.share == share}
            look = {"color": SERIES[nth], "dash": DASHES[nth], "width": 2}
            figure.add_scatter(x=list(of), y=list(of.values()), name=f"{100 * share:.0f} % of saturation", line=look)
        figure.update_xaxes(type="log", title_text="live accounts", tickvals=ours)
        figure.update_yaxes(title_text="CPU seconds a million scores", rangemode="tozero")
        text = (
            "The whole flow under live traffic, snapshots included. Lower rates cost more a score: batches are smaller."
        )
        parts.append(Chart("accounts_cost", "Accounts", text, style(figure, 340)))
    return parts


def _memory(outcome: Outcome) -> list[Part]:
    parts: list[Part] = []
    if outcome.holdings:
        reading = (
            "The flow's states alone, in a process that does nothing else; its own size is part of the last column."
        )
        rows = tuple(tables.holding_rows(outcome))
        parts.append(Table("holdings", "What states weigh", reading, tables.HOLDINGS, rows))
    if outcome.soak:
        parts.append(_soaked(outcome.soak))
    return parts


def _soaked(found: Soak) -> Chart:
    figure = go.Figure(
        go.Scatter(
            x=[seconds / 60 for seconds in found.seconds],
            y=[memory / MEGA for memory in found.memory],
            mode="lines+markers",
            line={"color": BLUE},
            marker={"size": 4, "color": DARK_GREY},
        )
    )
    figure.update_xaxes(title_text="minutes")
    figure.update_yaxes(title_text="MB", rangemode="tozero")
    reading = (
        f"The flow's process tree at {whole(found.rate)} transactions a second. When the windows are full it grows "
        f"by {found.slope / MEGA:+,.1f} MB an hour; 95 % lie within {found.error / MEGA:,.1f} of that."
    )
    return Chart("steady_memory", "Steady traffic", reading, style(figure, 340))


def _setup(outcome: Outcome) -> list[Part]:
    here = outcome.machine
    facts = (
        ("CPU", f"{here.cpu}, {here.cores} cores"),
        ("Memory", f"{here.memory / 2**30:.1f} GiB"),
        ("Kernel", here.kernel),
        ("Broker's log", here.log),
        ("When", here.date),
        ("Traffic", outcome.traffic),
        ("Model", outcome.model),
        *here.versions.items(),
    )
    parts: list[Part] = [Table("machine", "Machine and versions", "", ("", ""), facts)]
    if outcome.left_out:
        said = "; ".join(f"{name}: {why.splitlines()[0]}" for name, why in outcome.left_out.items())
        parts.append(Note("left_out", "Left out", said))
    return parts
