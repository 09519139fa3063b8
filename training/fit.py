"""The candidate models: XGBoost, a logistic regression and an Isolation Forest.

They learn from every fraud and at most ``HONEST_ROWS`` honest rows, the forest from the honest ones alone. On the
Handbook's validation weeks that costs no precision against using every row, and it bounds time and memory. Honest rows
are not weighted up to stand for all: calibration puts the scores right, and unweighted, the bins of the histograms are
as fine where the frauds are as where most rows are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier
from xgboost.callback import TrainingCallback

from features.errors import InvalidHistory

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

XGBOOST: Final = "xgboost"
LOGISTIC: Final = "logistic_regression"
FOREST: Final = "isolation_forest"
CANDIDATES: Final = (XGBOOST, LOGISTIC, FOREST)

HONEST_ROWS: Final = 150_000
FEWEST_FRAUDS: Final = 10
_BLOCK: Final = 65_536  # rows
ROUNDS: Final = 100
# Chosen on the Handbook's validation weeks. There 2,048 bins, which cannot resolve a rule on the largest 0.05 % of the
# amounts, cost .002 of average precision, and the default of 256 costs .01. A fixed base score converts to ONNX without
# a constant.
XGBOOST_PARAMETERS: Final = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "base_score": 0.5,
    "max_bin": 8192,
    "n_estimators": ROUNDS,
    "learning_rate": 0.1,
    "max_depth": 5,
    "min_child_weight": 10,
    "reg_lambda": 10,
    "colsample_bynode": 0.3,
}
FOREST_PARAMETERS: Final = {"n_estimators": 100, "max_samples": 2048}


@dataclass(frozen=True)
class Models:
    """The fitted candidates. ``medians`` float32 [F] stand in for missing values where the forest looks."""

    xgboost: XGBClassifier
    logistic: Pipeline
    forest: IsolationForest
    medians: Matrix

    def margin(self, candidate: str, features: Matrix) -> Floats:
        """What a candidate thinks of rows [n, F] before calibration: the higher, the likelier a fraud; float64 [n]."""
        if not len(features):
            return np.empty(0)
        if candidate == XGBOOST:
            return np.asarray(self.xgboost.predict(features, output_margin=True), dtype=np.float64)
        if candidate == LOGISTIC:
            blocks = range(0, len(features), _BLOCK)  # the pipeline makes several copies in double precision
            return np.concatenate([self._logistic_margin(features[begin : begin + _BLOCK]) for begin in blocks])
        return self.anomaly(features)

    def _logistic_margin(self, features: Matrix) -> Floats:
        return np.asarray(self.logistic.decision_function(features.astype(np.float64)), dtype=np.float64)

    def anomaly(self, features: Matrix) -> Floats:
        """The anomaly score of Liu, Ting, Zhou, "Isolation Forest" (2008), equation 2; float64 [n], 0 to 1."""
        if not len(features):
            return np.empty(0)
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


def fit(features: Matrix, y: Labels, seed: int = 0, on_round: Callable[[], None] = lambda: None) -> Models:
    """All candidates, fitted to rows [n, F] (NaN = missing) and known labels [n]; the same input gives the same models.

    ``on_round`` is called after each of the ``ROUNDS`` rounds of boosting. Raises ``InvalidHistory`` where there are
    fewer than ``FEWEST_FRAUDS`` frauds or honest rows.
    """
    require_frauds(y, "training")
    rows = sample(y, seed)
    features, y = features[rows], y[rows]
    # One thread a model: more would wait for each other at every round, for seconds where the cores are busy, and would
    # let the number of cores into the sums.
    with ThreadPoolExecutor(2) as pool, threadpool_limits(1):
        boosted = pool.submit(_boosted, features, y, seed, on_round)
        logistic = pool.submit(_logistic, features, y).result()
        medians = logistic["impute"].statistics_.astype(np.float32)
        honest = features[~y]
        forest = pool.submit(_forest, np.where(np.isnan(honest), medians, honest), seed).result()
        return Models(boosted.result(), logistic, forest, medians)


def _boosted(features: Matrix, y: Labels, seed: int, on_round: Callable[[], None]) -> XGBClassifier:
    model = XGBClassifier(**XGBOOST_PARAMETERS, random_state=seed, n_jobs=1, callbacks=[_Rounds(on_round)])
    model.fit(features, y)
    return model.set_params(callbacks=None)


def _logistic(features: Matrix, y: Labels) -> Pipeline:
    pipeline = Pipeline(
        [
            ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)),
            ("scale", StandardScaler()),
            ("model", LogisticRegression(solver="newton-cholesky", max_iter=200)),
        ]
    )
    # Double precision keeps extreme values finite where the scaled features are summed.
    return pipeline.fit(features.astype(np.float64), y)


def _forest(filled: Matrix, seed: int) -> IsolationForest:
    samples = min(FOREST_PARAMETERS["max_samples"], len(filled))
    return IsolationForest(**(FOREST_PARAMETERS | {"max_samples": samples}), random_state=seed).fit(filled)


def require_frauds(y: Labels, days: str) -> None:
    """Raises ``InvalidHistory`` where there are too few rows of a class to learn or to choose anything from."""
    frauds, honest = int(y.sum()), int((~y).sum())
    if min(frauds, honest) < FEWEST_FRAUDS:
        raise InvalidHistory(
            f"the {days} days have {frauds:,} frauds known by then and {honest:,} honest transactions; at least "
            f"{FEWEST_FRAUDS} of each are needed: bring a longer history, or give more days by --train-days, "
            "--validation-days or an earlier --train-start"
        )


def sample(y: Labels, seed: int, most: int | None = None) -> npt.NDArray[np.intp]:
    """Rows to fit on, in order: all frauds, and at most so many honest rows, drawn without replacement.

    ``most`` is ``HONEST_ROWS`` if it is left out. Of a sample, all of it.
    """
    honest = np.flatnonzero(~y)
    drawn = np.random.default_rng(seed).choice(honest, min(len(honest), most or HONEST_ROWS), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(y), drawn]))


class _Rounds(TrainingCallback):
    def __init__(self, on_round: Callable[[], None]) -> None:
        self._on_round = on_round

    def after_iteration(self, model: object, epoch: int, evals_log: object) -> bool:  # noqa: ARG002 - XGBoost's signature
        self._on_round()
        return False
