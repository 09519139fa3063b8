"""The candidate models, their calibration, and the threshold that an alert budget asks for.

All candidates learn from the same rows: every fraud and at most ``HONEST_ROWS`` honest ones, weighted up to stand for all.
On the Handbook's validation weeks that costs no precision against using every row, and it bounds time and memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier
from xgboost.callback import TrainingCallback

from features.errors import InvalidHistory, InvalidSetting

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

XGBOOST: Final = "xgboost"
LOGISTIC: Final = "logistic_regression"
FOREST: Final = "isolation_forest"
CANDIDATES: Final = (XGBOOST, LOGISTIC, FOREST)

HONEST_ROWS: Final = 300_000
FEWEST_FRAUDS: Final = 10
ROUNDS: Final = 100
# Chosen on the Handbook's validation weeks. base_score and max_bin matter: a fitted base score, or the default of 256
# bins, which cannot resolve a rule on the largest 0.05 % of the amounts, costs up to .01 of average precision.
XGBOOST_PARAMETERS: Final = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "base_score": 0.5,
    "max_bin": 4096,
    "n_estimators": ROUNDS,
    "learning_rate": 0.1,
    "max_depth": 5,
    "min_child_weight": 10,
    "reg_lambda": 10,
    "colsample_bynode": 0.3,
}
FOREST_PARAMETERS: Final = {"n_estimators": 100, "max_samples": 256}


@dataclass(frozen=True)
class Models:
    """The fitted candidates. ``medians`` float32 [F] stand in for missing values where the forest looks."""

    xgboost: XGBClassifier
    logistic: Pipeline
    forest: IsolationForest
    medians: Matrix

    def margin(self, candidate: str, features: Matrix) -> Floats:
        """What a candidate thinks of rows [n, F] before calibration: the higher, the likelier a fraud; float64 [n]."""
        if candidate == XGBOOST:
            return np.asarray(self.xgboost.predict(features, output_margin=True), dtype=np.float64)
        if candidate == LOGISTIC:
            return np.asarray(self.logistic.decision_function(features.astype(np.float64)), dtype=np.float64)
        return self.anomaly(features)

    def anomaly(self, features: Matrix) -> Floats:
        """The anomaly score of Liu, Ting, Zhou, "Isolation Forest" (2008), equation 2; float64 [n], 0 to 1."""
        filled = np.where(np.isnan(features), self.medians, features)
        return np.asarray(-self.forest.score_samples(filled), dtype=np.float64)

    def importances(self, candidate: str) -> Floats:
        """The share of a candidate that each feature carries, float64 [F], in sum 1.

        XGBoost: total gain. Logistic regression: absolute coefficient of the scaled feature, and of its being missing.
        Isolation Forest: share of the splits.
        """
        shares = np.zeros(len(self.medians))
        if candidate == XGBOOST:
            for name, gain in self.xgboost.get_booster().get_score(importance_type="total_gain").items():
                shares[int(name.removeprefix("f"))] = gain
        elif candidate == LOGISTIC:
            coefficients = np.abs(self.logistic["model"].coef_[0])
            shares += coefficients[: len(shares)]
            shares[self.logistic["impute"].indicator_.features_] += coefficients[len(shares) :]
        else:
            for tree in self.forest.estimators_:
                split_on = tree.tree_.feature
                shares += np.bincount(split_on[split_on >= 0], minlength=len(shares))
        return shares / (shares.sum() or 1.0)


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


def fit(features: Matrix, y: Labels, seed: int = 0, on_round: Callable[[], None] = lambda: None) -> Models:
    """All candidates, fitted to rows [n, F] (NaN = missing) and known labels [n]; the same input gives the same models.

    ``on_round`` is called after each of the ``ROUNDS`` rounds of boosting. Raises ``InvalidHistory`` where there are
    fewer than ``FEWEST_FRAUDS`` frauds or honest rows.
    """
    require_frauds(y, "training")
    rows, weights = _sample(y, seed)
    features, y = features[rows], y[rows]
    xgboost = XGBClassifier(**XGBOOST_PARAMETERS, random_state=seed, callbacks=[_Rounds(on_round)])
    xgboost.fit(features, y, sample_weight=weights)
    xgboost.set_params(callbacks=None)
    # Double precision keeps extreme values finite where the scaled features are summed.
    logistic = Pipeline(
        [
            ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)),
            ("scale", StandardScaler()),
            ("model", LogisticRegression(solver="newton-cholesky", max_iter=200)),
        ]
    )
    logistic.fit(features.astype(np.float64), y, model__sample_weight=weights)
    medians = logistic["impute"].statistics_.astype(np.float32)
    filled = np.where(np.isnan(features), medians, features)
    samples = min(FOREST_PARAMETERS["max_samples"], len(filled))
    forest = IsolationForest(**(FOREST_PARAMETERS | {"max_samples": samples}), random_state=seed).fit(filled)
    return Models(xgboost, logistic, forest, medians)


def require_frauds(y: Labels, days: str) -> None:
    """Raises ``InvalidHistory`` where there are too few rows of a class to learn or to choose anything from."""
    frauds, honest = int(y.sum()), int((~y).sum())
    if min(frauds, honest) < FEWEST_FRAUDS:
        raise InvalidHistory(
            f"the {days} days have {frauds:,} frauds known by then and {honest:,} honest transactions; at least "
            f"{FEWEST_FRAUDS} of each are needed: bring a longer history, or give more days by --train-days, "
            "--validation-days or an earlier --train-start"
        )


def baseline(features: Matrix, y: Labels) -> list[float | None]:
    """Each feature's median over the honest of rows [n, F], None where it is always missing."""
    honest = features[~y]
    medians = [np.median(column[~np.isnan(column)]) if not np.isnan(column).all() else None for column in honest.T]
    return [None if median is None else float(median) for median in medians]


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


def _sample(y: Labels, seed: int) -> tuple[npt.NDArray[np.intp], Matrix]:
    """Rows to fit on, in order, and their weights: all frauds, and honest rows drawn without replacement."""
    honest = np.flatnonzero(~y)
    kept = min(len(honest), HONEST_ROWS)
    drawn = np.random.default_rng(seed).choice(honest, kept, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(y), drawn]))
    return rows, np.where(y[rows], 1.0, len(honest) / kept).astype(np.float32)


def _logistic(x: Floats) -> Floats:
    # Of the two forms the one whose exponential cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _log_loss(x: Floats, target: Floats) -> float:
    return float((np.logaddexp(0.0, x) - target * x).sum())


class _Rounds(TrainingCallback):
    def __init__(self, on_round: Callable[[], None]) -> None:
        self._on_round = on_round

    def after_iteration(self, model: object, epoch: int, evals_log: object) -> bool:  # noqa: ARG002 - XGBoost's signature
        self._on_round()
        return False
