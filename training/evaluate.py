"""How good a candidate is on rows that it has not seen, by the protocol of the Handbook.

Source of the protocol and of card precision: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning
for Credit Card Fraud Detection: Practical Handbook" (2022), chapters 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

from features.transaction import microseconds
from training.calibration import expected_calibration_error
from training.split import DAY, Period, Split
from training.thresholds import Rule, Scored

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Instants = npt.NDArray[np.int64]

CARDS: Final = 100  # how many accounts a day the Handbook's analysts look at
_DAY: Final = 86_400_000_000  # microseconds
COMPROMISED: Final = 7 * DAY  # the Handbook's training week, whatever the span that the models here learn from


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report or a tracker shows of one training.

    All arrays have one entry a held-out row, in time order. ``candidates`` maps a model's name to its calibrated
    scores (float64 [n], 0 to 1); ``metrics`` maps the same names to metric name -> value. ``threshold`` belongs to the
    champion: an alert is ``score >= threshold``. ``amount`` is in minor units, ``timestamp`` in microseconds since 1970
    (UTC). ``validation`` are the rows on which the ``rule`` gave that threshold, with the rehearsed champion's scores.
    ``fraud_scenario`` holds the name of the kind of fraud, or None where it is unknown or the row is honest.
    ``importances`` maps each feature to the share of the champion that it carries.
    """

    candidates: dict[str, Scores]
    champion: str
    threshold: float
    rule: Rule
    validation: Scored
    y: Labels
    amount: npt.NDArray[np.int64]
    timestamp: Instants
    account: npt.NDArray[Any]
    fraud_scenario: npt.NDArray[Any]
    features: npt.NDArray[np.float32]
    feature_names: tuple[str, ...]
    importances: dict[str, float]
    metrics: dict[str, dict[str, float]]
    split: Split

    @property
    def budget(self) -> str:
        """What the threshold was chosen for, in words."""
        return str(self.rule)

    @property
    def scored(self) -> Scored:
        """The held-out rows with the champion's scores."""
        held_out = self.split.held_out
        return Scored(self.candidates[self.champion], self.y, self.amount, (held_out.end - held_out.start) / DAY)


def judge(
    scores: Scores, y: Labels, *, account: npt.NDArray[Any], timestamp: Instants, threshold: float, period: Period
) -> dict[str, float]:
    """The metrics of one candidate; NaN where the rows lack a class or, for precision, where there is no alert.

    ``auc_roc`` and ``average_precision`` by transaction, ``card_precision_100`` by account and day, and what alerts at
    ``threshold`` would be: ``recall_at_budget``, ``precision_at_budget``, ``alerts_per_day``. How good scores are as
    probabilities: ``expected_calibration_error``, and ``brier_score`` (Brier 1950), their mean squared distance.
    """
    both = bool(y.any() and not y.all())
    alerts = scores >= threshold
    hits = int((alerts & y).sum())
    return {
        "auc_roc": float(roc_auc_score(y, scores)) if both else float("nan"),
        "average_precision": float(average_precision_score(y, scores)) if y.any() else float("nan"),
        f"card_precision_{CARDS}": card_precision(scores, y, account, days_of(timestamp, period)),
        "recall_at_budget": hits / int(y.sum()) if y.any() else float("nan"),
        "precision_at_budget": hits / int(alerts.sum()) if alerts.any() else float("nan"),
        "alerts_per_day": float(alerts.sum()) / ((period.end - period.start) / DAY),
        "threshold": threshold,
        "expected_calibration_error": expected_calibration_error(scores, y),
        "brier_score": float(np.mean((scores - y) ** 2)) if len(y) else float("nan"),
    }


def card_precision(
    scores: Scores, y: Labels, account: npt.NDArray[Any], day: npt.NDArray[np.int64], cards: int = CARDS
) -> float:
    """Card precision@k (Handbook, chapter 4): by day, the share of frauds among the k accounts with the highest scores.

    An account's score is its highest of the day; it counts as a hit if any of its transactions of the day is a fraud;
    accounts that were hits on an earlier day are left out. The mean over the days; NaN without rows.
    """
    detected: set[Any] = set()
    precisions = []
    for today in np.unique(day):
        rows = np.flatnonzero(day == today)
        by_account = (
            pl.DataFrame({"account": account[rows], "score": scores[rows], "fraud": y[rows]})
            .group_by("account", maintain_order=True)
            .max()
            .filter(~pl.col("account").is_in(list(detected)))
            .sort("score", descending=True, maintain_order=True)
            .head(cards)
        )
        hits = by_account.filter("fraud")["account"].to_list()
        precisions.append(len(hits) / cards)
        detected.update(hits)
    return float(np.mean(precisions)) if precisions else float("nan")


def known_compromised(history: pl.DataFrame, period: Period, label_delay: timedelta) -> Labels:
    """Which rows of a period belong to accounts whose fraud was known before that day, bool [rows of history].

    Such accounts are blocked in practice, so the Handbook removes them from the test day by day: those with a fraud
    since the start of its training week (``label_delay`` + 7 days before the test) whose label was known by the
    morning of the day in question.
    """
    since = period.start - label_delay - COMPROMISED
    frauds = history.filter("is_fraud", pl.col("timestamp") >= since).select(
        "account_id", known=pl.col("labelled_at").fill_null(pl.col("timestamp") + label_delay).dt.epoch("us")
    )
    first_known = frauds.group_by("account_id").agg(pl.col("known").min())
    inside = period.rows(history)
    rows = (
        history.filter(pl.Series(inside))
        .select("account_id", t=pl.col("timestamp").dt.epoch("us"))
        .join(first_known, on="account_id", how="left", maintain_order="left")
    )
    mornings = microseconds(period.start) + days_of(rows["t"].to_numpy(), period) * _DAY
    inside[inside] = (rows["known"] < pl.Series(mornings)).fill_null(value=False).to_numpy()
    return inside


def days_of(timestamp: Instants, period: Period) -> Instants:
    """How many days of 24 hours after the period's start each instant (microseconds since 1970) lies."""
    return (timestamp - microseconds(period.start)) // _DAY
