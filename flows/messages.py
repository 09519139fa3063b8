"""What leaves the flow, as the topics' JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from features.transaction import microseconds, rfc3339
from flows import metrics
from flows.model import Model
from flows.records import AlertMessage, Decision, Outgoing, Rejection, ScoredMessage

_encode = msgspec.json.Encoder().encode


class Messages:
    """Writes decisions and rejections as messages."""

    def __init__(self, model: Model, *, scored_features: bool) -> None:
        self._model = model
        self._scored_features = scored_features

    def scored(self, decision: Decision) -> tuple[str, Outgoing]:
        """The message of the ``scored`` topic, with its key."""
        metrics.SCORED.inc()
        features = self._model.values(decision) if self._scored_features else None
        return _keyed(decision, ScoredMessage(**self._common(decision), features=features))

    def alert(self, decision: Decision) -> tuple[str, Outgoing]:
        """The message of the ``alerts`` topic, with its key: the score and why."""
        metrics.ALERTS.inc()
        message = AlertMessage(
            **self._common(decision),
            features=self._model.values(decision),
            threshold=self._model.threshold,
            reasons=self._model.reasons(decision),
        )
        return _keyed(decision, message)

    def rejected(self, rejection: Rejection) -> tuple[str, Outgoing]:
        """The message of the ``rejected`` topic: the original key and bytes; beside it what decides its partition."""
        metrics.REJECTED.labels(rejection.code).inc()
        key = rejection.key or b""
        return key.decode(errors="replace"), Outgoing(rejection.key, rejection.value, rejection.headers)

    def _common(self, decision: Decision) -> dict[str, Any]:
        transaction = decision.transaction
        return {
            "transaction_id": transaction.transaction_id,
            "account_id": transaction.account_id,
            "merchant_id": transaction.merchant_id,
            "amount": transaction.amount / 100,
            "timestamp": rfc3339(transaction.timestamp),
            "score": decision.score,
            "anomaly_score": decision.anomaly_score,
            "alert": decision.alert,
            "model": self._model.version,
            "scored_at": rfc3339(microseconds(datetime.now(UTC))),
        }


def _keyed(decision: Decision, message: ScoredMessage) -> tuple[str, Outgoing]:
    key = decision.transaction.account_id
    return key, Outgoing(key.encode(), _encode(message), {})
