"""How the champion does on each kind of fraud, in figures: what is caught, and where the rest ranks."""

from __future__ import annotations

from typing import Final

import numpy as np

from training.evaluate import Evaluation
from training.figures import Part, Table, counted, money, percent, whole, wilson
from training.figures_alerts import kinds_of

HEADER: Final = ("kind", "frauds", "caught", "share", "95 % interval", "amount missed", "rank of the missed")


def kind_parts(evaluation: Evaluation) -> list[Part]:
    """A row a kind of fraud and one of all; nothing where the data name no kinds."""
    kinds = kinds_of(evaluation)
    if kinds is None:
        return []
    names, group = kinds
    score = evaluation.candidates[evaluation.champion]
    alert, fraud = score >= evaluation.threshold, evaluation.y
    rank = score.size - np.searchsorted(np.sort(score), score[fraud])  # 1 is the highest, a tie counts as its last
    caught, amount = alert[fraud], evaluation.amount[fraud]
    rows = []
    for name, of_kind in [(n, group == i) for i, n in enumerate(names)] + [("all", np.full(group.size, True))]:
        frauds, hits = int(of_kind.sum()), int(caught[of_kind].sum())
        low, high = wilson(hits, frauds)
        missed = int(amount[of_kind & ~caught].sum())
        interval = f"{percent(low)} to {percent(high)}"
        middle = whole(float(np.median(rank[of_kind & ~caught]))) if hits < frauds else "-"
        rows.append((name, whole(frauds), whole(hits), percent(hits / frauds), interval, money(missed), middle))
    reading = (
        f"Caught: with an alert, that is, among the {counted(int(alert.sum()), 'highest score')} of "
        f"{whole(score.size)}. The last column is where the middle one of the missed stands among all of these, 1 "
        f"being the highest score: near {whole(score.size / 2)} the missed look like any transaction to the model, and "
        "no lower threshold would find them. Intervals are Wilson's."
    )
    return [Table("kinds", "Each kind of fraud", reading, HEADER, tuple(rows), emphasis=len(rows) - 1)]
