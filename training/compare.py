"""The rehearsal, which chooses champion, calibration and threshold, and the evaluation of the models that were fitted.

See ``training.split`` for which days are what. Nothing here lets a label be used before it was known.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from training.calibration import Calibration, calibrate
from training.evaluate import Evaluation, judge, known_compromised
from training.fit import CANDIDATES, Labels, Matrix, Models, require_frauds, sample
from training.split import DAY, Period, Split, known_frauds
from training.thresholds import Rule, Scored

log = logging.getLogger(__name__)

_BLOCK: Final = 4_096  # rows


@dataclass(frozen=True)
class Rows:
    """Rows of a history with their features: ``features`` float32 [n, F], the rest [n]; see ``Evaluation``."""

    period: Period
    features: Matrix
    y: Labels
    account: npt.NDArray[Any]
    timestamp: npt.NDArray[np.int64]
    amount: npt.NDArray[np.int64]
    fraud_scenario: npt.NDArray[Any]

    def scored(self, scores: npt.NDArray[np.float64]) -> Scored:
        """The rows with their calibrated scores [n]."""
        return Scored(scores, self.y, self.amount, (self.period.end - self.period.start) / DAY)

    def judge(self, scores: npt.NDArray[np.float64], threshold: float, rule: Rule) -> dict[str, float]:
        """The metrics of scores [n]; see ``training.evaluate.judge`` and the rule's own."""
        general = judge(
            scores, self.y, account=self.account, timestamp=self.timestamp, threshold=threshold, period=self.period
        )
        return general | rule.metrics(self.scored(scores), threshold)


@dataclass(frozen=True)
class Choice:
    """What the rehearsal decided. ``thresholds`` and ``calibrations`` are by candidate, as are the ``metrics``.

    ``validation`` are the rows that the champion's threshold was chosen on.
    """

    champion: str
    calibrations: dict[str, Calibration]
    thresholds: dict[str, float]
    metrics: dict[str, dict[str, float]]
    rule: Rule
    validation: Scored


def training_rows(
    history: pl.DataFrame, features: pl.DataFrame, split: Split, period: Period, *, seed: int | None = None
) -> tuple[Matrix, Labels]:
    """Features [n, F] and labels [n] of a training or rehearsal period, labels as they were known when it was over.

    That is one label delay after its end; a fraud that was found out later counts as honest. With a ``seed`` only the
    rows that ``fit`` would draw with it: of a long history all rows are far more than what it learns from.
    """
    inside = np.flatnonzero(period.rows(history))
    labels = known_frauds(history, period.end + split.label_delay, split.label_delay)[inside]
    if seed is not None:
        drawn = sample(labels, seed)
        inside, labels = inside[drawn], labels[drawn]
    return _matrix(features, inside), labels


def judged_rows(
    history: pl.DataFrame, features: pl.DataFrame, split: Split, period: Period, *, keep_compromised: bool
) -> Rows:
    """The rows of a period that models are judged on, without accounts known to be compromised unless these are kept.

    The labels of validation days are those known at ``as_of``; those of test days are all that the history has.
    """
    inside = period.rows(history)
    if period.end <= split.as_of:
        history = history.with_columns(is_fraud=pl.Series(known_frauds(history, split.as_of, split.label_delay)))
    if not keep_compromised:
        inside &= ~known_compromised(history, period, split.label_delay)
    rows = history.filter(pl.Series(inside))
    return Rows(
        period,
        _matrix(features, np.flatnonzero(inside)),
        rows["is_fraud"].to_numpy(),
        rows["account_id"].to_numpy(),
        rows["timestamp"].dt.epoch("us").to_numpy(),
        rows["amount"].to_numpy(),
        rows["fraud_scenario"].to_numpy(),
    )


def choose(models: Models, rows: Rows, rule: Rule) -> Choice:
    """Champion (the highest average precision), calibrations and thresholds, from the rehearsal's models.

    ``rows`` are of the validation days. Raises ``InvalidHistory`` where they have too few frauds; warns where the
    champion would raise no alert on them.
    """
    require_frauds(rows.y, "validation")
    calibrations: dict[str, Calibration] = {}
    thresholds: dict[str, float] = {}
    metrics: dict[str, dict[str, float]] = {}
    scored: dict[str, Scored] = {}
    for candidate in CANDIDATES:
        margin = models.margin(candidate, rows.features)
        calibrations[candidate] = calibrate(margin, rows.y)
        scored[candidate] = rows.scored(calibrations[candidate].scores(margin))
        thresholds[candidate] = rule.threshold(scored[candidate])
        metrics[candidate] = rows.judge(scored[candidate].scores, thresholds[candidate], rule)
    champion = max(CANDIDATES, key=lambda candidate: metrics[candidate]["average_precision"])
    if not metrics[champion]["alerts_per_day"]:
        log.warning("for %s the validation days get no alert at all: %s", rule, rule.silence)
    return Choice(champion, calibrations, thresholds, metrics, rule, scored[champion])


def evaluate(models: Models, choice: Choice, rows: Rows, *, names: tuple[str, ...], split: Split) -> Evaluation:
    """How fitted models do on held-out rows, with the calibrations and thresholds of the rehearsal."""
    scores = {
        candidate: choice.calibrations[candidate].scores(models.margin(candidate, rows.features))
        for candidate in CANDIDATES
    }
    return Evaluation(
        candidates=scores,
        champion=choice.champion,
        threshold=choice.thresholds[choice.champion],
        rule=choice.rule,
        validation=choice.validation,
        y=rows.y,
        amount=rows.amount,
        timestamp=rows.timestamp,
        account=rows.account,
        fraud_scenario=rows.fraud_scenario,
        features=rows.features,
        feature_names=names,
        importances=dict(zip(names, models.importances(choice.champion).tolist(), strict=True)),
        metrics={
            candidate: rows.judge(scores[candidate], choice.thresholds[candidate], choice.rule)
            for candidate in CANDIDATES
        },
        split=split,
    )


def _matrix(features: pl.DataFrame, rows: npt.NDArray[np.intp]) -> Matrix:
    """Rows of the features, in C order, without a second copy; by blocks, which stay in the processor's cache."""
    matrix = np.empty((len(rows), features.width), np.float32)
    columns = [values.to_numpy() for values in features]
    for begin in range(0, len(rows), _BLOCK):
        block = rows[begin : begin + _BLOCK]
        for position, values in enumerate(columns):
            matrix[begin : begin + _BLOCK, position] = values[block]
    return matrix
