"""What each group of features brings, on the validation weeks.

XGBoost with the parameters of ``training.fit`` learns with all features, without a group, and from that group alone;
the difference in average precision is what the group brings that the others do not, and what it can do by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score
from xgboost import XGBClassifier

from bench.contest import Contest
from features.definitions import DAY, OF_FIELD, OF_LABELS, Aggregate, Entity, Feature
from features.errors import InvalidHistory
from training.compare import judged_rows, training_rows
from training.fit import XGBOOST_PARAMETERS, require_frauds, sample
from training.quality import Ablated

# Honest rows to learn from: a third of what training takes, as there are some twenty fits a week.
HONEST: Final = 50_000
WHEN_KNOWN: Final = frozenset({Aggregate.SINCE_HONEST, Aggregate.SINCE_RUN, Aggregate.SINCE_KNOWN_FRAUD})


def groups(features: Sequence[Feature]) -> dict[str, list[int]]:
    """Positions of features by what they are of, and once more by how long their windows are; from the specs alone."""
    found: dict[str, list[int]] = {}
    for position, feature in enumerate(features):
        found.setdefault(_kind(feature), []).append(position)
    for window in sorted({feature.window for feature in features if feature.window is not None}):
        name = f"windows of {_days(window)}"
        found[name] = [position for position, feature in enumerate(features) if feature.window == window]
    return found


def _kind(feature: Feature) -> str:
    if feature.entity is Entity.TRANSACTION:
        return "the transaction itself"
    if feature.aggregate in WHEN_KNOWN:
        return f"{feature.entity}: when its frauds were"
    if feature.aggregate in OF_LABELS or feature.delay:  # a delayed count is what a count of frauds is held against
        return f"{feature.entity}: known frauds"
    if feature.aggregate in OF_FIELD:
        return f"{feature.entity}: habits"
    if feature.aggregate is Aggregate.TREND:
        return f"{feature.entity}: trend of the amounts"
    if feature.aggregate is Aggregate.SINCE:
        return f"{feature.entity}: recency"
    return f"{feature.entity}: amounts and activity"


def _days(window: timedelta) -> str:
    return f"{window / DAY:g} day{'s' * (window != DAY)}"


def ablate(contest: Contest, features: Sequence[Feature], advance: Callable[[], None]) -> list[Ablated]:
    """Every group's part; ``features`` are those of ``contest.ours``, ``advance`` is called after each week.

    Raises ``InvalidHistory`` where no validation week fits, or where one has too few frauds to learn from.
    """
    if not contest.weeks.validation:
        raise InvalidHistory("no validation week fits in this history, so nothing can be left out; bring a longer one")
    found = groups(features)
    everything: list[float] = []
    without: dict[str, list[float]] = {name: [] for name in found}
    alone: dict[str, list[float]] = {name: [] for name in found}
    for start in contest.weeks.validation:
        score = _scorer(contest, start)
        every = np.arange(len(features))
        everything.append(score(every))
        for name, positions in found.items():
            without[name].append(score(np.setdiff1d(every, positions)))
            alone[name].append(score(np.array(positions)))
        advance()
    return [Ablated(name, len(found[name]), everything, without[name], alone[name]) for name in found]


def _scorer(contest: Contest, start: datetime) -> Callable[[npt.NDArray[np.intp]], float]:
    """A function from columns to the average precision that they reach in the week."""
    split = contest.split(start)
    assert split.test
    x, y = training_rows(contest.history, contest.ours, split, split.train)
    require_frauds(y, "training")
    rows = sample(y, contest.seed, HONEST)
    learnt, labels = x[rows], y[rows]
    judged = judged_rows(contest.history, contest.ours, split, split.test, keep_compromised=False)

    def score(columns: npt.NDArray[np.intp]) -> float:
        if not len(columns):  # the group is all there is: without it every transaction looks the same
            return float(judged.y.mean())
        model = XGBClassifier(**XGBOOST_PARAMETERS, random_state=contest.seed, n_jobs=1)
        model.fit(learnt[:, columns], labels)
        probabilities = model.predict_proba(judged.features[:, columns])[:, 1].astype(np.float64)
        return float(average_precision_score(judged.y, probabilities))

    return score
