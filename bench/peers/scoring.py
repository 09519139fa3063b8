"""What all peers share beside the states: where they work, the bundle's graph, the message that they write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.bundle import Bundle, load
from features.inference import session
from features.transaction import Transaction, microseconds, rfc3339

ANY_TIME: Final = 1 << 62  # no timestamp is refused as one of the future
PREFIX: Final = "BENCH_"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Place:
    """Where a contender works, from its environment; ``state``: a folder of its own for what it keeps."""

    bootstrap: str
    transactions: str
    scored: str
    model: Path
    state: Path
    group: str

    @property
    def alerts(self) -> str:
        """The topic of the alerts, for who writes any."""
        return f"alerts-{self.scored}"

    @classmethod
    def from_environment(cls) -> Place:
        """As ``environment`` has put it there."""
        get = os.environ.__getitem__
        return cls(
            get("BENCH_BOOTSTRAP"),
            get("BENCH_TRANSACTIONS"),
            get("BENCH_SCORED"),
            Path(get("BENCH_MODEL")),
            Path(get("BENCH_STATE")),
            get("BENCH_GROUP"),
        )

    def environment(self) -> Mapping[str, str]:
        """The variables that say it."""
        names = ("bootstrap", "transactions", "scored", "model", "state", "group")
        return {f"{PREFIX}{name.upper()}": str(getattr(self, name)) for name in names}


class Scorer:
    """The bundle's graph on one thread, and its threshold."""

    def __init__(self, model: Path) -> None:
        self.bundle: Bundle = load(model)
        self.threshold = self.bundle.manifest.threshold
        self._session = session(self.bundle.model)

    def scores(self, rows: Sequence[Sequence[float]] | NDArray[np.float32]) -> list[tuple[float, float]]:
        """The score and the anomaly score of each row of features, in one call."""
        outputs: Any = self._session.run(["score", "anomaly_score"], {"features": np.asarray(rows, np.float32)})
        return list(zip(outputs[0].tolist(), outputs[1].tolist(), strict=True))

    def fields(self, transaction: Transaction, score: float, anomaly_score: float) -> dict[str, Any]:
        """What the scored topic gets."""
        return fields(transaction, score, anomaly_score, self.threshold, self.bundle.manifest.version)

    def message(self, transaction: Transaction, score: float, anomaly_score: float) -> bytes:
        """The JSON of the scored topic."""
        return _encode(self.fields(transaction, score, anomaly_score))


def fields(
    transaction: Transaction, score: float, anomaly_score: float | None, threshold: float, model: str
) -> dict[str, Any]:
    """What the scored topic gets of every contender; the naive way has no anomaly score."""
    return {
        "transaction_id": transaction.transaction_id,
        "account_id": transaction.account_id,
        "merchant_id": transaction.merchant_id,
        "amount": transaction.amount / 100,
        "timestamp": rfc3339(transaction.timestamp),
        "score": score,
        "anomaly_score": anomaly_score,
        "alert": score >= threshold,
        "model": model,
        "scored_at": rfc3339(microseconds(datetime.now(UTC))),
    }
