"""The Handbook's choice of parameters, made again: each of its grids, on the validation weeks (its chapter 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import msgspec
import numpy as np

from bench.baselines import GRIDS
from bench.contest import Contest, book_models
from bench.published import METRICS, Learner, Parameters, PublishedRow
from features.errors import InvalidHistory


def grid(learner: Learner) -> Iterator[Parameters]:
    """Every combination of the learner's values."""
    values = GRIDS[learner]
    for combination in product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def combinations(rows: Sequence[PublishedRow]) -> int:
    """How many models ``search`` fits in each validation week."""
    return sum(len(list(grid(row.learner))) for row in rows if row.learner)


def search(contest: Contest, rows: Sequence[PublishedRow], advance: Callable[[], None]) -> list[PublishedRow]:
    """The rows with the parameters that are best here: by metric, the highest mean over the validation weeks.

    Calls ``advance`` after each model and week. Raises ``InvalidHistory`` where no validation week fits.
    """
    if not contest.weeks.validation:
        raise InvalidHistory("no validation week fits in this history, so nothing can be chosen; bring a longer one")
    return [_chosen(contest, row, advance) if row.learner else row for row in rows]


def _chosen(contest: Contest, row: PublishedRow, advance: Callable[[], None]) -> PublishedRow:
    assert row.learner
    tried = list(grid(row.learner))
    means = []
    for parameters in tried:
        candidate = PublishedRow(
            model=row.model,
            table=row.table,
            block=row.block,
            learner=row.learner,
            chosen=dict.fromkeys(METRICS, parameters),
        )
        weeks = []
        for start in contest.weeks.validation:
            measured = next(iter(book_models(contest, start, [candidate]).values()))
            weeks.append([measured.figures[metric] for metric in METRICS])
            advance()
        means.append(np.mean(weeks, axis=0))
    best = np.argmax(means, axis=0)
    return msgspec.structs.replace(row, chosen={m: tried[i] for m, i in zip(METRICS, best, strict=True)})
