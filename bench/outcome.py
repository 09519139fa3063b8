"""What a comparison came to: rows by block, the difference from the model to beat, and all of it as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from bench.contest import BOOK, CHAMPION, OUR_DAYS, TO_BEAT, Contest, Contestant, Measured, Row
from bench.published import METRICS, Figures, PublishedRow
from features.definitions import feature_set, fingerprint
from training import quality
from training.fit import Floats

Part = Literal["test", "validation"]
Judge = Callable[[datetime], dict[Contestant, Measured]]


@dataclass(frozen=True)
class Block:
    """The rows of one table: ``starts`` are the weeks that each of them was judged on."""

    title: str
    starts: tuple[datetime, ...]
    rows: list[Row]

    def row(self, model: str, learns: str) -> Row:
        """The row of a contestant."""
        return next(r for r in self.rows if (r.contestant.model, r.contestant.learns) == (model, learns))


@dataclass(frozen=True)
class Outcome:
    """Everything that is printed; choices are made on ``validation``, the other blocks are of test weeks."""

    contest: Contest
    name: str
    handbook: bool
    searched: bool
    chapter_3: Block
    test: Block
    validation: Block | None
    baselines: list[PublishedRow]
    ablation: list[quality.Ablated]


def collect(
    title: str,
    starts: Sequence[datetime],
    judges: Sequence[Judge],
    *,
    published: Sequence[PublishedRow],
    part: Part,
    advance: Callable[[], None],
) -> Block:
    """Asks each judge about each week; published figures stand beside the rows of their model, or in rows of their own.

    Calls ``advance`` after each judge and week.
    """
    rows: dict[Contestant, Row] = {}
    for start in starts:
        for judge in judges:
            for contestant, measured in judge(start).items():
                rows.setdefault(contestant, Row(contestant)).weeks.append(measured)
            advance()
    for line in published:
        figures: Figures = getattr(line, part)
        contestant = next(
            (c for c in rows if c.model == line.model and c.features == BOOK and line.learner),
            Contestant(line.model, BOOK, "published"),
        )
        if figures:
            rows.setdefault(contestant, Row(contestant)).published.update(figures)
    return Block(title, tuple(starts), list(rows.values()))


def differences(block: Block) -> list[quality.Difference]:
    """Our champion less the model to beat, by metric; deviations are of the population of weeks, as the book's are."""
    ours, theirs = block.row(CHAMPION, OUR_DAYS), block.row(TO_BEAT, OUR_DAYS)
    found = []
    for metric in METRICS:
        less = ours.values(metric) - theirs.values(metric)
        wins, losses = int((less > 0).sum()), int((less < 0).sum())
        found.append(quality.Difference(metric, less.tolist(), float(less.mean()), float(less.std()), wins, losses))
    return found


def as_file(outcome: Outcome) -> quality.Quality:
    """What the command writes."""
    contest, validation = outcome.contest, outcome.validation
    return quality.Quality(
        created_at=datetime.now(UTC),
        history=quality.History(outcome.name, outcome.handbook, **quality.identity(contest.history)),
        fingerprint=fingerprint(feature_set(contest.weeks.label_delay)),
        label_delay_days=contest.weeks.label_delay.days,
        seed=contest.seed,
        book_parameters=quality.BookParameters(
            "searched on the validation weeks" if outcome.searched else "published",
            {f"{row.block}: {row.model}": row.chosen for row in outcome.baselines if row.learner},
        ),
        blocks=quality.Blocks(
            _block(outcome.chapter_3), _block(outcome.test), _block(validation) if validation else None
        ),
        ours_less_baseline=quality.Differences(
            differences(outcome.test), differences(validation) if validation else []
        ),
        ablation=outcome.ablation,
    )


def _block(block: Block) -> quality.Block:
    rows = [
        quality.Row(
            **asdict(row.contestant),
            figures={metric: _figure(row.values(metric)) for metric in METRICS} if row.weeks else {},
            published=row.published,
            candidates=[week.candidate for week in row.weeks if week.candidate],
            fit_seconds=average([week.fit_seconds for week in row.weeks]),
            row_microseconds=average([week.row_microseconds for week in row.weeks]),
            role=_role(row.contestant),
        )
        for row in block.rows
    ]
    return quality.Block(block.title, [start.date() for start in block.starts], rows)


def _role(contestant: Contestant) -> quality.Role | None:
    if contestant.learns != OUR_DAYS:
        return None
    return "champion" if contestant.model == CHAMPION else "baseline" if contestant.model == TO_BEAT else None


def _figure(values: Floats) -> quality.Figure:
    return quality.Figure(float(values.mean()), float(values.std()), values.tolist())


def average(values: Sequence[float | None]) -> float | None:
    """The mean of what was measured; None where nothing was."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
