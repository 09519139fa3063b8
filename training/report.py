"""report.html: one page about a history and the models made from it, which needs nothing but a browser.

plotly.js is inside the page once, and every figure holds binned or thinned data only, so the page works offline, opens
within a second or two, and does not grow with the history.
"""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl
from plotly.offline import get_plotlyjs

from features.errors import InvalidHistory
from training.evaluate import Evaluation
from training.figures import CONFIG, Card, Cards, Chart, Note, Part, Table, counted, spoken, template, whole
from training.figures_alerts import alert_parts, importances, weak_parts
from training.figures_data import data_parts, span
from training.figures_examples import Explained, contributions, example_parts
from training.figures_features import feature_parts
from training.figures_kinds import kind_parts
from training.figures_models import metrics, model_parts
from training.figures_quality import quality_parts
from training.figures_thresholds import threshold_parts

Sections = list[tuple[str, list[Part]]]
TITLE: Final = 40  # pixels that a figure grows by when its title is put into it
LONG_TABLE: Final = 10  # rows; a longer table of pairs is set in two columns
CODE: Final = re.compile(r"`([^`]+)`")
HERE: Final = Path(__file__).parent


def render(
    evaluation: Evaluation,
    history: pl.DataFrame,
    features: pl.DataFrame,
    path: Path,
    *,
    explained: Explained | None = None,
    quality: Path | None = None,
) -> None:
    """Writes the whole report to ``path``, in UTF-8.

    ``history`` is the canonical frame of ``features.history.load``; ``features`` [rows, F] is
    ``features.batch.compute(history)``. ``explained`` gives example alerts with their reasons, ``quality``, the file of
    ``training.quality``, the comparison with other models; each part is left out without them. Raises
    ``InvalidHistory`` where they are empty or do not belong together.
    """
    champion = spoken(evaluation.champion)
    lead = (
        f"Champion: {champion}. Alert from a score of {evaluation.threshold:.4g} on (chosen for: {evaluation.budget})."
    )
    sections: Sections = [
        ("The split", [_split(evaluation, history)]),
        ("The data", _about_data(history, features)),
        *_about_models(evaluation, explained),
    ]
    if quality:
        compared = quality_parts(quality, history, evaluation.split.label_delay)
        sections.insert(3, ("Comparison", compared))
    write_page(path, "Vigie: training report", lead, sections)


def render_data(history: pl.DataFrame, features: pl.DataFrame, path: Path) -> None:
    """Writes the data part of the report alone; arguments and errors as for ``render``."""
    sections = [("The data", _about_data(history, features))]
    first, last = span(history)
    lead = f"{counted(history.height, 'transaction')}, {first:%Y-%m-%d} to {last:%Y-%m-%d} (UTC)."
    write_page(path, "Vigie: a look at the data", lead, sections)


def figures(evaluation: Evaluation) -> dict[str, go.Figure]:
    """The figures about the models, each with its title in it: name -> figure, for a tracker such as MLflow."""
    charts = [p for _, parts in _about_models(evaluation) for p in parts if isinstance(p, Chart)]
    return {chart.name: _titled(chart) for chart in charts}


def _titled(chart: Chart) -> go.Figure:
    figure = go.Figure(chart.figure)
    place = {"x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "yref": "container", "pad": {"t": 12}}
    top = figure.layout.margin.t or figure.layout.template.layout.margin.t
    return figure.update_layout(
        title={"text": chart.title, **place}, margin_t=top + TITLE, height=figure.layout.height + TITLE
    )


def _about_data(history: pl.DataFrame, features: pl.DataFrame) -> list[Part]:
    if history.is_empty():
        raise InvalidHistory("the history has no rows, so there is nothing to report; give a file with transactions")
    if history.height != features.height:
        message = f"the history has {history.height} rows but the features have {features.height}; compute them from it"
        raise InvalidHistory(message)
    return [*data_parts(history), *feature_parts(features, history["is_fraud"])]


def _split(evaluation: Evaluation, history: pl.DataFrame) -> Table:
    judged, held_out = evaluation.y.size, int(evaluation.split.held_out.rows(history).sum())
    reading = f"All days are UTC. The models are judged on the {whole(judged)} transactions of the last days"
    if judged < held_out:
        reading = (
            f"All days are UTC. The models are judged on {whole(judged)} of the {whole(held_out)} transactions of the "
            "last days, without the accounts that were already known as compromised"
        )
    reading += "; alerts a day and card precision are of the same transactions."
    return Table("split", "Which days are what", reading, ("", ""), tuple(evaluation.split.describe()))


def _about_models(evaluation: Evaluation, explained: Explained | None = None) -> Sections:
    alerts = example_parts(evaluation, explained) if explained else []
    weight = explained and contributions(evaluation, explained)
    used = ("What the model uses", [weight or importances(evaluation)])
    examples = [("Examples", alerts)] if alerts else []
    if evaluation.y.all() or not evaluation.y.any():
        kind = "honest transactions" if evaluation.y.all() else "frauds"
        reading = (
            f"There are no {kind} among the {whole(evaluation.y.size)} held-out transactions, so no curve and no "
            "recall can be given. Train on a history, or up to a date, whose last days have both."
        )
        note = Note("one_class", "No comparison", reading)
        kept = threshold_parts(evaluation) if evaluation.y.size else []
        return [("The models", [metrics(evaluation), note, *kept]), used, *examples]
    return [
        ("The models", [*model_parts(evaluation), *threshold_parts(evaluation), *alert_parts(evaluation)]),
        used,
        *examples,
        ("Where it is weak", [*kind_parts(evaluation), *weak_parts(evaluation)]),
    ]


def write_page(path: Path, title: str, lead: str, sections: Sections) -> None:
    """Writes a page of these parts, in UTF-8, which needs nothing but a browser; sections are linked at its top."""
    charts = [p for _, parts in sections for p in parts if isinstance(p, Chart)]
    plots = {chart.name: _bare(chart.figure) for chart in charts}
    themes = {name: template(dark=name == "dark").to_plotly_json() for name in ("light", "dark")}
    links = "".join(f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name, _ in sections)
    body = "".join(
        f'<h2 id="{_anchor(name)}">{html.escape(name)}</h2>{"".join(_part(p) for p in parts)}'
        for name, parts in sections
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{(HERE / "report.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p></header>
<nav><div>{links}</div></nav>
<main>{body}</main>
<footer>Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.</footer>
<script>{get_plotlyjs()}</script>
<script type="application/json" id="figures">{_json(plots)}</script>
<script type="application/json" id="themes">{_json(themes)}</script>
<script type="application/json" id="config">{_json(CONFIG)}</script>
<script>{(HERE / "report.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _bare(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain values, without the template, which the page brings once for all."""
    plain: dict[str, Any] = json.loads(figure.to_json())
    del plain["layout"]["template"]
    return plain


def _json(value: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _part(part: Part) -> str:
    match part:
        case Chart():
            content = f'<div class="figure" id="{part.name}"></div>'
        case Table():
            content = _table(part)
        case Note():
            content = ""
        case Cards():
            content = f'<div class="cards">{"".join(_card(card) for card in part.cards)}</div>'
    text = CODE.sub(r"<code>\1</code>", html.escape(part.reading, quote=False)).replace(" %", "&nbsp;%")
    return f'<section class="part"><h3>{html.escape(part.title)}</h3><p class="reading">{text}</p>{content}</section>'


def _card(card: Card) -> str:
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in card.facts
    )
    reasons = "".join(
        f'<li class="{"for" if reason.contribution > 0 else "against"}" title="{html.escape(reason.feature)}">'
        f"<b>{_signed(reason.contribution)}</b><span>{html.escape(reason.sentence)}</span></li>"
        for reason in card.reasons
    )
    return (
        f'<article class="{card.kind}"><h4>{html.escape(card.title)}</h4><dl>{facts}</dl><ul>{reasons}</ul></article>'
    )


def _signed(value: float) -> str:
    """With a true minus sign, as wide as the plus."""
    return f"{value:+.2f}".replace("-", "\u2212")


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], kind: str, emphasis: bool) -> str:
        written = "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells)
        return f'<tr class="emphasis">{written}</tr>' if emphasis else f"<tr>{written}</tr>"

    rows = [row(cells, "td", number == table.emphasis) for number, cells in enumerate(table.rows)]
    if any(table.header):
        head = row(table.header, "th", emphasis=False)
        return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    half = (len(rows) + 1) // 2 if len(rows) > LONG_TABLE else len(rows)
    columns = ["".join(column) for column in (rows[:half], rows[half:]) if column]
    return f'<div class="columns">{"".join(f"<table class=pairs>{column}</table>" for column in columns)}</div>'
