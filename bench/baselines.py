"""The Handbook's own models, as its notebooks make them.

Source: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for Credit Card Fraud Detection:
Practical Handbook" (2022), chapters 3.5, 5.5 and 6.4. All learn from every transaction of the training week. The book
scales features by that week's mean and deviation; here only where it matters: the splits of a tree do not depend on
it, but its rounding would move them.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from bench.published import Learner, Parameters
from training.fit import Floats, Labels, Matrix

# What XGBoost did when the book was written: exact splits and no fitted base score. Today's defaults (256 bins, a base
# score fitted to the share of frauds) lose .02 of AUC ROC and .07 of average precision on the book's features.
OF_THE_BOOK: Final = {"tree_method": "exact", "base_score": 0.5}
# Nearly the same splits at a fifth of the time; for more rows than a week's.
FINE_BINS: Final = {"tree_method": "hist", "max_bin": 4096, "base_score": 0.5}

# The values that the book chooses from, on validation weeks (chapters 5.5 and 6.4).
GRIDS: Final[dict[Learner, dict[str, list[float | int]]]] = {
    "logistic_regression": {"C": [0.1, 1.0, 10.0, 100.0]},
    "random_forest": {"n_estimators": [25, 50, 100], "max_depth": [5, 10, 20, 50]},
    "xgboost": {"n_estimators": [25, 50, 100], "learning_rate": [0.1, 0.3], "max_depth": [3, 6, 9]},
    "balanced_bagging": {"n_estimators": [100], "max_depth": [20], "sampling_strategy": [0.02, 0.05, 0.1, 0.5, 1.0]},
}


class BalancedBagging(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Trees on bootstrap samples, each with honest rows dropped until there are frauds / ``sampling_strategy`` of them.

    Source: imbalanced-learn's BalancedBaggingClassifier, which the book uses.
    """

    def __init__(self, n_estimators: int, max_depth: int, sampling_strategy: float, random_state: int = 0) -> None:
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state

    def fit(self, features: Floats, y: Labels) -> BalancedBagging:
        """Grows the trees on rows [n, F] and labels [n]."""
        generator = np.random.default_rng(self.random_state)
        self.classes_ = np.array([False, True])
        self.trees_ = []
        for number in range(self.n_estimators):
            drawn = generator.integers(0, len(y), len(y))
            frauds, honest = drawn[y[drawn]], drawn[~y[drawn]]
            kept = min(len(honest), round(len(frauds) / self.sampling_strategy))
            rows = np.concatenate([frauds, generator.choice(honest, kept, replace=False)])
            tree = DecisionTreeClassifier(max_depth=self.max_depth, random_state=number)
            self.trees_.append(tree.fit(features[rows], y[rows]))
        return self

    def predict_proba(self, features: Floats) -> Floats:
        """The trees' mean, float64 [n, 2]."""
        mean: Floats = np.mean([tree.predict_proba(features) for tree in self.trees_], axis=0)
        return mean


class Classifier(Protocol):
    """What scikit-learn's and XGBoost's classifiers have in common."""

    def fit(self, features: Floats, y: Labels) -> Classifier:
        """Itself, fitted to rows [n, F] and labels [n]."""

    def predict_proba(self, features: Floats) -> Floats:
        """The probabilities of honest and fraud, [n, 2]."""


def fitted(learner: Learner, parameters: Parameters, features: Matrix, y: Labels) -> Classifier:
    """One of the book's models, fitted to rows [n, 15] and labels [n]."""
    return _model(learner, parameters).fit(features.astype(np.float64), y)


def probabilities(model: Classifier, features: Matrix) -> Floats:
    """The probability of fraud of rows [n, 15], float64 [n]."""
    return model.predict_proba(features.astype(np.float64))[:, 1].astype(np.float64)


def _model(learner: Learner, parameters: Parameters) -> Classifier:
    chosen: dict[str, Any] = dict(parameters)
    model: Classifier
    match learner:
        case "logistic_regression":
            model = make_pipeline(StandardScaler(), LogisticRegression(**chosen, random_state=0))
        case "random_forest":
            model = RandomForestClassifier(**chosen, random_state=0, n_jobs=-1)
        case "xgboost":
            model = XGBClassifier(**OF_THE_BOOK, **chosen, random_state=0, n_jobs=1)
        case "balanced_bagging":
            model = BalancedBagging(**chosen)
    return model
