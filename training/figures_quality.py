"""Our models beside others on the same history, week by week: what ``just bench-quality`` found, as tables."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from features.definitions import feature_set, fingerprint
from features.errors import InvalidSetting
from training.evaluate import CARDS
from training.figures import Note, Part, Table, counted, decimal, spoken
from training.quality import Ablated, Block, Difference, Quality, Role, Row, read
from training.split import DAY

METRICS: Final = {
    "auc_roc": "AUC ROC",
    "average_precision": "average precision",
    f"card_precision_{CARDS}": f"card precision@{CARDS}",
}
TITLE: Final = "Beside other models"
MAKE: Final = "`just bench-quality DATA --ablation`, with this history as DATA, makes it for the next report"

log = logging.getLogger(__name__)


def quality_parts(path: Path, history: pl.DataFrame, label_delay: timedelta) -> list[Part]:
    """The comparison in the file at ``path``, or a note where there is none of this history and label delay.

    A file that cannot be used is a warning in the log, and a note.
    """
    try:
        found = read(path)
    except InvalidSetting as error:
        log.warning("the report shows no comparison: %s", error)
        return [Note("comparison", TITLE, f"No comparison can be shown: {error}.")]
    if found is None:
        return [Note("comparison", TITLE, f"Not measured: {MAKE}.")]
    if not found.history.is_this(history):
        text = f"Not measured: the comparison at hand is of another history ({found.history.name}). {MAKE}."
        return [Note("comparison", TITLE, text)]
    if found.label_delay_days * DAY != label_delay:
        text = (
            f"Not measured: the comparison at hand is for labels that are {counted(found.label_delay_days, 'day')} "
            f"late, here they are {label_delay / DAY:g}. {MAKE} (with --label-delay)."
        )
        return [Note("comparison", TITLE, text)]
    return [_comparison(found), _by_week(found), _ablation(found)]


def _comparison(found: Quality) -> Table:
    """Every model on the test weeks."""
    test = found.blocks.test
    rows: list[tuple[str, ...]] = []
    position = None
    for row in test.rows:
        if row.role == "champion":
            position = len(rows)
        who = (spoken(row.model), row.features)
        if row.figures:
            rows.append((*who, row.learns, *(_figure(row, metric) for metric in METRICS)))
        if row.published:
            rows.append((*who, "published", *(_published(row, metric) for metric in METRICS)))
    champion, baseline = _of_role(test, "champion"), _of_role(test, "baseline")
    reading = (
        f"Test {_weeks(test)}. Before each, every model is made of what was known when it began, and all are judged on "
        "the same transactions; figures are means and deviations over the weeks. "
    )
    if champion and baseline:
        wins = {d.metric: d.wins for d in found.ours_less_baseline.test}
        compared = ", ".join(
            f"{title} {_mean(champion, metric)} beside {_mean(baseline, metric)} (better in {wins.get(metric, 0)} of "
            f"{counted(len(test.weeks), 'week')})"
            for metric, title in METRICS.items()
        )
        reading += f"The champion, marked, beside {baseline.model} ({baseline.features}): {compared}. "
        names = sorted(set(champion.candidates))
        reading += f"The champion was {' or '.join(spoken(name) for name in names)}. "
    if any(row.published for row in test.rows):
        reading += (
            "Published figures are the Handbook's, of this very data. The book's models have for each metric the "
            f"parameters {_parameters(found)}. "
        )
    reading += f"Measured on {found.created_at:%Y-%m-%d}; each is as of its week, none is the very model of this page."
    if found.fingerprint != fingerprint(feature_set(found.label_delay_days * DAY)):
        reading += " The features have changed since then: these are not today's models; run it again."
    header = ("model", "features", "learns from", *METRICS.values())
    return Table("comparison", TITLE, reading, header, tuple(rows), emphasis=position)


def _parameters(found: Quality) -> str:
    return "published for it" if found.book_parameters.source == "published" else found.book_parameters.source


def _by_week(found: Quality) -> Table:
    """The champion less the baseline, metric by metric and week by week."""
    blocks: list[tuple[str, Block, list[Difference]]] = [
        ("test", found.blocks.test, found.ours_less_baseline.test),
    ]
    if found.blocks.validation:
        blocks.append(("validation", found.blocks.validation, found.ours_less_baseline.validation))
    most = max(len(block.weeks) for _, block, _ in blocks)
    rows = []
    for name, block, differences in blocks:
        for difference in differences:
            title = f"{METRICS.get(difference.metric, difference.metric)}, {name} weeks"
            cells = [_signed(value) for value in difference.by_week]
            won = f"{difference.wins} of {len(block.weeks)}"
            mean = _spread(difference.mean, difference.deviation, len(block.weeks), sign="+")
            rows.append((title, mean, won, *cells, *[""] * (most - len(cells))))
    header = ("", "mean", "won", *(f"week {number}" for number in range(1, most + 1)))
    reading = (
        "The champion less the baseline, which learns from the same days with the book's features: above nought our "
        f"training is better. Test {_weeks(found.blocks.test)}"
    )
    if found.blocks.validation:
        reading += f"; validation {_weeks(found.blocks.validation)}, on which choices were made"
    return Table("by_week", "The champion less the baseline, week by week", f"{reading}.", header, tuple(rows))


def _ablation(found: Quality) -> Part:
    """What each group of features brings to XGBoost on the validation weeks."""
    title = "What groups of features bring"
    if not found.ablation:
        return Note("ablation", title, "Not measured: `just bench-quality DATA --ablation` leaves each group out.")
    everything = found.ablation[0].everything
    rows = tuple(
        (
            ablated.group,
            str(ablated.features),
            _spread(*_moments(_lost(ablated)), len(everything), sign="+"),
            _spread(*_moments(ablated.alone), len(everything)),
        )
        for ablated in found.ablation
    )
    dearest = min(found.ablation, key=lambda ablated: float(np.mean(_lost(ablated))))
    loss = -float(np.mean(_lost(dearest)))
    costs = f"dearest to lose is {dearest.group} (-{loss:.4f})" if loss > 0 else "no group is missed by itself"
    reading = (
        f"Average precision of XGBoost on {counted(len(everything), 'validation week')}: with all features "
        f"{_spread(*_moments(everything), len(everything))}. Without it: what leaving the group out changes, which is "
        f"little where others say the same; {costs}. It alone: what the group reaches by itself. Groups by length of "
        "window cut the same features in another way."
    )
    return Table("ablation", title, reading, ("group", "features", "without it", "it alone"), rows)


def _lost(ablated: Ablated) -> list[float]:
    return [without - everything for without, everything in zip(ablated.without, ablated.everything, strict=True)]


def _moments(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values))


def _of_role(block: Block, role: Role) -> Row | None:
    return next((row for row in block.rows if row.role == role), None)


def _figure(row: Row, metric: str) -> str:
    figure = row.figures.get(metric)
    return _spread(figure.mean, figure.deviation, len(figure.weeks)) if figure else "-"


def _published(row: Row, metric: str) -> str:
    """As it was published, which is a mean and mostly a deviation."""
    return " ±".join(f"{value:.4g}" for value in row.published.get(metric, ())) or "-"


def _mean(row: Row, metric: str) -> str:
    mean = row.figures[metric].mean if metric in row.figures else None
    return decimal(math.nan if mean is None else mean)


def _spread(mean: float | None, deviation: float | None, weeks: int, sign: str = "") -> str:
    if mean is None or deviation is None:
        return "-"  # a week without frauds has no value
    return f"{mean:{sign}.4f} ±{deviation:.4f}" if weeks > 1 else f"{mean:{sign}.4f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _weeks(block: Block) -> str:
    return f"week{'s' * (len(block.weeks) != 1)} from " + ", ".join(f"{start:%Y-%m-%d}" for start in block.weeks)
