"""One week of the protocol: every model learns before it and is judged on it, on the very same transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

import numpy as np
import polars as pl
from xgboost import XGBClassifier

from bench.baselines import FINE_BINS, fitted, probabilities
from bench.published import METRICS, Figures, Parameters, PublishedRow
from bench.weeks import Weeks
from features.definitions import feature_set, reach
from features.errors import InvalidHistory
from features.inference import session
from training.compare import Rows, judged_rows, training_rows
from training.fit import FEWEST_FRAUDS, Floats, Labels, Matrix
from training.pipeline import DEFAULT_RULE, Options, train
from training.progress import Stages
from training.split import DAY, LONGEST_TRAINING, Period, Split, plan

BOOK: Final = "book's 15"
CHAMPION: Final = "champion"
PERFECT: Final = "perfect model"
TO_BEAT: Final = "XGBoost, trained on our days"
# What the book chose for average precision on its validation weeks.
STANDARD: Final[Parameters] = {"n_estimators": 50, "learning_rate": 0.3, "max_depth": 3}
ONE_WEEK: Final = "7 days"
OUR_DAYS: Final = f"up to {LONGEST_TRAINING // DAY} days"  # the default of ``training.split.plan``


@dataclass(frozen=True)
class Measured:
    """One model in one week. ``fit_seconds`` and ``row_microseconds`` (scoring) are None where they mean nothing."""

    figures: dict[str, float]
    fit_seconds: float | None = None
    row_microseconds: float | None = None
    candidate: str | None = None  # which of our candidates the champion was


@dataclass(frozen=True)
class Contestant:
    """A model, whose features it has and which days it learns from: what tells a row of the tables from the others."""

    model: str
    features: str
    learns: str


@dataclass
class Row:
    """A contestant's weeks, in order of time; none where there are only ``published`` figures."""

    contestant: Contestant
    weeks: list[Measured] = field(default_factory=list)
    published: Figures = field(default_factory=dict)

    def values(self, metric: str) -> Floats:
        """The metric by week, float64 [weeks]."""
        return np.array([week.figures[metric] for week in self.weeks])


@dataclass(frozen=True)
class Contest:
    """A history (canonical frame), both sets of features [rows, F] and what the protocol and our training need."""

    history: pl.DataFrame
    ours: pl.DataFrame
    book: pl.DataFrame
    weeks: Weeks
    seed: int = 0

    def split(self, start: datetime, train_days: int | None = None) -> Split:
        """How our training splits the history as of the start of a test week."""
        return plan(
            self.history,
            label_delay=self.weeks.label_delay,
            reach=reach(feature_set(self.weeks.label_delay)),
            as_of=start,
            train_days=train_days,
        )


class Timed(Stages):
    """Shows nothing, and keeps how long all stages took together."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    @contextmanager
    def stage(self, name: str, steps: int | None = None) -> Iterator[Callable[[], None]]:  # noqa: ARG002 - as above
        """Adds the time of the block."""
        started = time.perf_counter()
        yield lambda: None
        self.seconds += time.perf_counter() - started


def book_models(contest: Contest, start: datetime, rows: Sequence[PublishedRow]) -> dict[Contestant, Measured]:
    """The Handbook's models on its features and its training week, and the model that knows the labels."""
    split = contest.split(start)
    x, y = _learnt(contest, split, contest.weeks.trained(start))
    judged = _judged(contest, contest.book, split)
    measured = {}
    known: dict[str, Measured] = {}  # rows may share parameters
    for row in rows:
        if row.learner is None:
            continue
        by_metric = {}
        for metric in METRICS:
            parameters = row.chosen[metric]
            key = f"{row.learner} {sorted(parameters.items())}"
            if key not in known:
                began = time.perf_counter()
                model = fitted(row.learner, parameters, x, y)
                took = time.perf_counter() - began
                known[key] = _timed(judged, partial(probabilities, model, judged.features), took)
            by_metric[metric] = known[key]
        shown = by_metric["average_precision"]
        figures = {metric: by_metric[metric].figures[metric] for metric in METRICS}
        measured[Contestant(row.model, BOOK, ONE_WEEK)] = Measured(figures, shown.fit_seconds, shown.row_microseconds)
    measured[Contestant(PERFECT, "the labels", "-")] = Measured(_figures(judged, judged.y.astype(np.float64)))
    return measured


def to_beat(contest: Contest, start: datetime) -> dict[Contestant, Measured]:
    """XGBoost on the Handbook's features and on every row of the days that our training learns from.

    What our models have to beat on any history, whether or not somebody published figures of it.
    """
    split = contest.split(start)
    x, y = _learnt(contest, split, split.train)
    judged = _judged(contest, contest.book, split)
    began = time.perf_counter()
    model = XGBClassifier(**FINE_BINS, **STANDARD, random_state=contest.seed, n_jobs=1).fit(x, y)
    took = time.perf_counter() - began
    contestant = Contestant(TO_BEAT, BOOK, OUR_DAYS)
    return {contestant: _timed(judged, partial(probabilities, model, judged.features), took)}


def our_models(contest: Contest, start: datetime, train_days: int | None = None) -> dict[Contestant, Measured]:
    """What ``just train`` makes of all that is known when the week begins: its champion, and each candidate.

    ``train_days`` None: the days that it takes by itself. The seconds are those of the whole training, all candidates,
    rehearsal and export; the microseconds those of the exported graph on one core. Raises ``InvalidHistory``.
    """
    timed = Timed()
    features, learns = f"our {contest.ours.width}", ONE_WEEK if train_days else OUR_DAYS
    options = Options(label_delay=contest.weeks.label_delay, as_of=start, train_days=train_days, seed=contest.seed)
    try:
        trained = train(contest.history, contest.ours, options, timed)
    except InvalidHistory as error:
        what, _, _ = str(error).partition(";")  # what follows are options that training has and this has not
        raise InvalidHistory(
            f"learning from {learns} for the test week from {start:%Y-%m-%d}, {what}; bring a history with more frauds"
        ) from error
    evaluation = trained.evaluation
    ready = session(trained.graph)
    began = time.perf_counter()
    ready.run(["score"], {"features": evaluation.features})
    microseconds = (time.perf_counter() - began) / len(evaluation.y) * 1e6
    figures = {name: {metric: found[metric] for metric in METRICS} for name, found in evaluation.metrics.items()}
    best = evaluation.champion
    return {
        Contestant(CHAMPION, features, learns): Measured(figures[best], timed.seconds, microseconds, best),
        **{Contestant(name, features, learns): Measured(found) for name, found in figures.items()},
    }


def _learnt(contest: Contest, split: Split, period: Period) -> tuple[Matrix, Labels]:
    x, y = training_rows(contest.history, contest.book, split, period)
    frauds, honest = int(y.sum()), int((~y).sum())
    if min(frauds, honest) < FEWEST_FRAUDS:
        raise InvalidHistory(
            f"the training days {period} for the test week from {split.as_of:%Y-%m-%d} have {frauds:,} frauds known by "
            f"then and {honest:,} honest transactions; at least {FEWEST_FRAUDS} of each are needed: bring a history "
            "with more frauds, and without silent weeks"
        )
    return x, y


def _judged(contest: Contest, features: pl.DataFrame, split: Split) -> Rows:
    rows = judged_rows(contest.history, features, split, split.test, keep_compromised=False) if split.test else None
    if rows is None or not rows.y.any() or rows.y.all():
        raise InvalidHistory(
            f"the test week from {split.as_of:%Y-%m-%d} lacks frauds or honest transactions, accounts known as "
            "compromised left out; bring a history with more frauds, and without silent weeks"
        )
    return rows


def _figures(rows: Rows, scores: Floats) -> dict[str, float]:
    found = rows.judge(scores, 0.5, DEFAULT_RULE)  # the figures taken hang on no threshold
    return {metric: found[metric] for metric in METRICS}


def _timed(rows: Rows, score: Callable[[], Floats], fit_seconds: float) -> Measured:
    began = time.perf_counter()
    scores = score()
    took = time.perf_counter() - began
    return Measured(_figures(rows, scores), fit_seconds, took / len(scores) * 1e6)
