"""From a model's margin to a probability, chosen on validation days, and how good a probability that is on others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

BINS: Final = 10
FEWEST_EXPECTED: Final = 5  # frauds in a bin


@dataclass(frozen=True)
class Calibration:
    """The smooth monotone map from margin to probability, 1 / (1 + exp(-(slope * margin + intercept)))."""

    slope: float
    intercept: float

    def scores(self, margin: Floats) -> Floats:
        """Probabilities float64 [n] of margins [n]."""
        return _logistic(self.slope * margin + self.intercept)


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


def calibration_bins(scores: Floats, bins: int = BINS) -> npt.NDArray[np.int64]:
    """The bin of each score [n], from the lowest, int64 [n]: bins that expect equally many frauds, ties undivided.

    Bins of equal width would hold nearly all rows in the first one, and bins of equally many rows would nearly all hold
    scores around nothing. Where the scores expect few frauds there are fewer bins, of ``FEWEST_EXPECTED`` each.
    """
    total = float(scores.sum())
    bins = min(bins, max(1, int(total / FEWEST_EXPECTED)))
    values, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    expected = values * counts
    below = np.cumsum(expected) - expected
    return np.minimum(bins * (below / (total or 1.0)), bins - 1).astype(np.int64)[position]


def expected_calibration_error(scores: Floats, y: Labels) -> float:
    """How far scores [n] lie from the share of frauds y [n], the mean over the rows, by ``calibration_bins``.

    Source: Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning" (2015), but for
    the bins. On the Handbook's weeks in August these tell a slope 1.3 times too steep or a shift of 0.2 in the log odds
    from chance more clearly than bins of equal width or of equally many rows do. NaN without rows.
    """
    if not len(scores):
        return float("nan")
    return float(np.abs(np.bincount(calibration_bins(scores), scores - y)).sum() / len(scores))


def chance_error(scores: Floats) -> float:
    """The ``expected_calibration_error`` that scores [n] would show by chance if they were exactly right.

    The number of frauds of a bin is then nearly normal around what is expected. NaN without rows.
    """
    if not len(scores):
        return float("nan")
    variances = np.bincount(calibration_bins(scores), scores * (1 - scores))
    return float(np.sqrt(2 / np.pi * variances).sum() / len(scores))


def _logistic(x: Floats) -> Floats:
    # Of the two forms the one whose exponential cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _log_loss(x: Floats, target: Floats) -> float:
    return float((np.logaddexp(0.0, x) - target * x).sum())
