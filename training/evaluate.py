"""How good a candidate is on rows that it has not seen, by the protocol of the Handbook.

Source of the protocol and of card precision: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning
for Credit Card Fraud Detection: Practical Handbook" (2022), chapters 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.split import Split

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report or a tracker shows of one training; all arrays have one entry a held-out row, in time order.

    ``candidates`` maps a model's name to its calibrated scores (float64 [n], 0 to 1); ``metrics`` maps the same names to
    metric name -> value. ``threshold`` belongs to the champion: an alert is ``score >= threshold``. ``amount`` is in
    minor units, ``timestamp`` in microseconds since 1970 (UTC). ``fraud_scenario`` holds the name of the kind of fraud, or
    None where it is unknown or the row is honest. ``importances`` maps each feature to the share of the champion that it carries.
    """

    candidates: dict[str, Scores]
    champion: str
    threshold: float
    budget: str
    y: Labels
    amount: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.int64]
    account: npt.NDArray[Any]
    fraud_scenario: npt.NDArray[Any]
    features: npt.NDArray[np.float32]
    feature_names: tuple[str, ...]
    importances: dict[str, float]
    metrics: dict[str, dict[str, float]]
    split: Split
