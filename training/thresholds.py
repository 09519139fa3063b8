"""What a threshold is chosen for: so many alerts, or the least cost; on validation days, never on the test.

A rule is ``AlertsPerDay``, ``AlertRate`` or ``LeastCost``; each gives a threshold for scored rows, and says in words
what it is. An alert is a score at or above the threshold. Where no alert fits the rule, ``silence`` says why.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from features.errors import InvalidSetting

MINOR_UNITS: Final = 100  # in one major unit

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Rows with their calibrated scores, all [n]; ``amount`` in minor units, ``days`` how long they took."""

    scores: Floats
    y: Labels
    amount: Integers
    days: float


@dataclass(frozen=True)
class Levels:
    """The thresholds that differ on scored rows, from the highest: none, the top score, the two highest, and so on.

    All [k + 1] for k distinct scores: ``threshold``, ``alerts`` at or above it, ``missed`` the minor units of the
    frauds below it.
    """

    threshold: Floats
    alerts: Integers
    missed: Integers


def losses(rows: Scored) -> Integers:
    """What it costs to miss each row, int64 [n] in minor units: a fraud its amount, a refund and the honest nothing."""
    return np.where(rows.y, np.maximum(rows.amount, 0), 0)


def levels(rows: Scored) -> Levels:
    """The levels of n >= 1 scored rows.

    Thresholds lie midway between two scores of single precision, which is what the published graph gives, so that
    rounding carries no score over.
    """
    single = rows.scores.astype(np.float32)
    order = np.argsort(-single, kind="stable")
    last = np.append(np.flatnonzero(np.diff(single[order])), len(order) - 1)
    values = single[order][last].astype(np.float64)
    lost = losses(rows)
    caught = np.cumsum(lost[order])[last]
    above = max(1.0, math.nextafter(values[0], math.inf))
    between = (np.concatenate([[above], values]) + np.append(values, 0.0)) / 2
    if between[0] <= values[0]:  # a score of 1 leaves no room below 1
        between[0] = above
    return Levels(between, np.append(0, last + 1), int(lost.sum()) - np.append(0, caught))


class _Budget(ABC):
    """At most so many alerts, or one where less than one is allowed."""

    silence: ClassVar[str] = (
        "more transactions share the highest score than may raise an alert, and a threshold cannot part them; "
        "raise the budget, or give more --validation-days"
    )

    @abstractmethod
    def a_day(self, rows: Scored) -> float:
        """How many alerts a day the budget allows on rows, on average."""

    def threshold(self, rows: Scored) -> float:
        """The lowest threshold within the budget; above all scores where too many share the highest."""
        of = levels(rows)
        return float(of.threshold[np.searchsorted(of.alerts, self.at_most(rows), side="right") - 1])

    def at_most(self, rows: Scored) -> int:
        """How many alerts the budget allows on rows."""
        return max(1, math.floor(self.a_day(rows) * rows.days + 1e-9))

    def metrics(self, rows: Scored, threshold: float) -> dict[str, float]:  # noqa: ARG002 - as of ``LeastCost``
        """None of its own."""
        return {}


@dataclass(frozen=True)
class AlertsPerDay(_Budget):
    """At most so many alerts a day, on average."""

    alerts: float

    def __post_init__(self) -> None:
        if not 0 < self.alerts < math.inf:
            raise InvalidSetting(f"--alerts-per-day {self.alerts} must be above 0")

    def __str__(self) -> str:
        return f"{self.alerts:g} alerts a day"

    def a_day(self, rows: Scored) -> float:  # noqa: ARG002 - as of ``AlertRate``
        """The number itself."""
        return self.alerts


@dataclass(frozen=True)
class AlertRate(_Budget):
    """Alerts on at most such a share of the transactions."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidSetting(f"--alert-rate {self.share} must lie between 0 and 1, such as 0.005 for 0.5 %")

    def __str__(self) -> str:
        return f"alerts on {100 * self.share:g} % of the transactions"

    def a_day(self, rows: Scored) -> float:
        """The share of the rows of a day."""
        return self.share * len(rows.scores) / rows.days


@dataclass(frozen=True)
class LeastCost:
    """The least of what reviews and missed frauds cost: ``review`` major units an alert, and each fraud its amount."""

    silence: ClassVar[str] = (
        "no alert there is worth its review; lower --review-cost, or give --alerts-per-day or --alert-rate instead"
    )
    review: float

    def __post_init__(self) -> None:
        if not 0 < self.review < math.inf:
            raise InvalidSetting(f"--review-cost {self.review} must be above 0: what looking at one alert costs")

    def __str__(self) -> str:
        return f"least cost at {self.review:g} a review"

    def costs(self, of: Levels) -> Floats:
        """The total cost at each level in major units, float64 [k + 1]."""
        return of.alerts * self.review + of.missed / MINOR_UNITS

    def threshold(self, rows: Scored) -> float:
        """The highest of the thresholds that cost least; above all scores where it is cheapest to give no alert."""
        of = levels(rows)
        return float(of.threshold[np.argmin(self.costs(of))])

    def metrics(self, rows: Scored, threshold: float) -> dict[str, float]:
        """In major units: ``cost`` at a threshold, ``cost_without_alerts``, and ``saved``, which may be negative."""
        lost, alert = losses(rows), rows.scores >= threshold
        cost = int(alert.sum()) * self.review + int(lost[~alert].sum()) / MINOR_UNITS
        without = int(lost.sum()) / MINOR_UNITS
        return {"cost": cost, "cost_without_alerts": without, "saved": without - cost}


Rule = AlertsPerDay | AlertRate | LeastCost
