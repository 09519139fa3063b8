"""The model at work: a bundle's ONNX graph scores batches, and says why it raised an alert."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.bundle import Bundle
from features.contributions import Contributions
from features.errors import InvalidBundle
from features.inference import session
from features.sentences import sentence
from flows.records import Candidates, Decisions, Reason, Rows

BATCH: Final = 1024
REASONS: Final = 5


class Model:
    """Scores transactions with the graph of a bundle; one of these a process."""

    def __init__(self, bundle: Bundle) -> None:
        self.version = bundle.manifest.version
        self.threshold = bundle.manifest.threshold
        self.names = bundle.manifest.features
        self._features = bundle.features
        try:
            self._session = session(bundle.model)
        except Exception as error:  # see there
            raise InvalidBundle(
                f"{bundle.path}: onnxruntime cannot load the model ({error}); train it again"
            ) from error
        self._try_out(bundle)
        self._contributions = Contributions(bundle.model, bundle.path)

    def _try_out(self, bundle: Bundle) -> None:
        """Scores a row in which all is missing, so that a graph that cannot serve is refused at the start."""
        try:
            score, anomaly_score = self._run(np.full((1, len(self.names)), np.nan, np.float32))
            fits = score.shape == anomaly_score.shape == (1,)
        except Exception as error:  # as above
            raise InvalidBundle(f"{bundle.path}: the model cannot score ({error}); train it again") from error
        if not fits:
            raise InvalidBundle(
                f"{bundle.path}: for one row the model gives score {score.shape} and anomaly_score "
                f"{anomaly_score.shape} instead of (1,); train it again"
            )

    def score(self, candidates: Candidates) -> Decisions:
        """A decision for each candidate, in their order."""
        scores, anomalies = [], []
        for start in range(0, len(candidates.features), BATCH):
            score, anomaly = self._run(candidates.features[start : start + BATCH])
            scores += score.tolist()
            anomalies += anomaly.tolist()
        alerts = [score >= self.threshold for score in scores]
        return Decisions(candidates.transactions, candidates.features, scores, anomalies, alerts)

    def values(self, row: Rows) -> dict[str, float | None]:
        """The features by name; None where missing."""
        return {name: _shortest(value) for name, value in zip(self.names, row, strict=True)}

    def reasons(self, rows: Rows) -> list[list[Reason]]:
        """For each row of features those that raise its score the most, strongest first, at most ``REASONS``.

        Contributions are exact Shapley values in log odds; what lowers the score is no reason. All rows are explained
        at once, because a few dozen cost little more than one.
        """
        if not len(rows):
            return []
        contributions = np.round(self._contributions(rows), 6)
        strongest = np.argsort(-contributions, axis=1, kind="stable")[:, :REASONS]
        return [
            self._in_words(row, added, [i for i in order if added[i] > 0])
            for row, added, order in zip(rows, contributions, strongest, strict=True)
        ]

    def _in_words(self, row: Rows, contributions: NDArray[np.float64], chosen: list[int]) -> list[Reason]:
        named = dict(zip(self._features, row.tolist(), strict=True))
        return [
            Reason(self.names[i], _shortest(row[i]), float(contributions[i]), sentence(self._features[i], named))
            for i in chosen
        ]

    def _run(self, rows: Rows) -> tuple[Rows, Rows]:
        score, anomaly_score = self._session.run(["score", "anomaly_score"], {"features": rows})
        return score, anomaly_score


def _shortest(value: np.float32) -> float | None:
    """The number with the fewest digits that is this float32; None where it is missing."""
    return None if math.isnan(value) else float(str(value))
