"""From a model's margin to a probability, and from an alert budget to a threshold.

Both are chosen on validation days, never on the test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.errors import InvalidSetting

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """The smooth monotone map from margin to probability, 1 / (1 + exp(-(slope * margin + intercept)))."""

    slope: float
    intercept: float

    def scores(self, margin: Floats) -> Floats:
        """Probabilities float64 [n] of margins [n]."""
        return _logistic(self.slope * margin + self.intercept)


@dataclass(frozen=True)
class Budget:
    """How many alerts there may be: so many a day, or a share of the transactions. Exactly one is given."""

    alerts_per_day: float | None = None
    alert_rate: float | None = None

    def __post_init__(self) -> None:
        if (self.alerts_per_day is None) == (self.alert_rate is None):
            raise InvalidSetting("give either --alerts-per-day or --alert-rate")
        if self.alerts_per_day is not None and not 0 < self.alerts_per_day < math.inf:
            raise InvalidSetting(f"--alerts-per-day {self.alerts_per_day} must be above 0")
        if self.alert_rate is not None and not 0 < self.alert_rate < 1:
            raise InvalidSetting(f"--alert-rate {self.alert_rate} must lie between 0 and 1, such as 0.005 for 0.5 %")

    def __str__(self) -> str:
        if self.alerts_per_day is not None:
            return f"{self.alerts_per_day:g} alerts a day"
        return f"alerts on {100 * (self.alert_rate or 0):g} % of the transactions"

    def alerts(self, rows: int, days: float) -> int:
        """The number of alerts allowed on so many rows in so many days, at least 1."""
        allowed = self.alerts_per_day * days if self.alerts_per_day is not None else (self.alert_rate or 0) * rows
        return max(1, int(allowed))


def calibrate(margin: Floats, y: Labels) -> Calibration:
    """Platt scaling of margins [n] to labels [n], with Platt's targets, by Newton's method.

    Source: Lin, Lin, Weng, "A note on Platt's probabilistic outputs for support vector machines" (2007). Where margins
    rise as frauds get rarer, no increasing map helps, and every margin gets about the share of frauds.
    """
    center, scale = float(margin.mean()), float(margin.std()) or 1.0
    x = (margin - center) / scale
    frauds, honest = int(y.sum()), int((~y).sum())
    target = np.where(y, (frauds + 1) / (frauds + 2), 1 / (honest + 2))
    share = float(target.mean())
    slope, intercept = 0.0, math.log(share / (1 - share))
    loss = _log_loss(slope * x + intercept, target)
    for _ in range(100):
        p = _logistic(slope * x + intercept)
        error, curvature = p - target, p * (1 - p)
        gradient = np.array([error @ x, error.sum()])
        cross = curvature @ x
        hessian = np.array([[curvature @ (x * x), cross], [cross, curvature.sum()]]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-10:
            trial = slope - size * float(step[0]), intercept - size * float(step[1])
            trial_loss = _log_loss(trial[0] * x + trial[1], target)
            if trial_loss < loss:
                break
            size /= 2
        else:
            break
        converged = loss - trial_loss < 1e-12 * len(x)
        (slope, intercept), loss = trial, trial_loss
        if converged:
            break
    if slope <= 0:
        slope, intercept = 1e-3, math.log(share / (1 - share))
    return Calibration(slope / scale, intercept - slope * center / scale)


def choose_threshold(scores: Floats, alerts: int) -> float:
    """The threshold that gives at most ``alerts`` scores at or above it; a tie at the very top is let through whole.

    It lies midway between two scores, so that rounding a score to float32 does not carry it over.
    """
    values, counts = np.unique(scores, return_counts=True)
    values, above = values[::-1], np.cumsum(counts[::-1])
    last = max(int(np.searchsorted(above, alerts, side="right")) - 1, 0)
    following = values[last + 1] if last + 1 < len(values) else 0.0
    return float((values[last] + following) / 2)


def _logistic(x: Floats) -> Floats:
    # Of the two forms the one whose exponential cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _log_loss(x: Floats, target: Floats) -> float:
    return float((np.logaddexp(0.0, x) - target * x).sum())
