"""What leaves the flow, as the topics' JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from features.transaction import microseconds, rfc3339
from flows import metrics
from flows.model import Model
from flows.records import AlertMessage, Decision, Outgoing, Reason, Rejection, ScoredMessage

_encode = msgspec.json.Encoder().encode


class Messages:
    """Writes decisions and rejections as messages."""

    def __init__(self, model: Model, *, scored_features: bool) -> None:
        self._model = model
        self._scored_features = scored_features

    def scored(self, decisions: Sequence[Decision]) -> list[tuple[str, Outgoing]]:
        """The messages of the ``scored`` topic, with their keys, and the alert where there is one."""
        metrics.SCORED.inc(len(decisions))
        alerts = [decision for decision in decisions if decision.alert]
        metrics.ALERTS.inc(len(alerts))
        reasons = iter(self._model.reasons(alerts))
        return [self._scored(decision, next(reasons) if decision.alert else []) for decision in decisions]

    def _scored(self, decision: Decision, reasons: list[Reason]) -> tuple[str, Outgoing]:
        common = self._common(decision)
        features = self._model.values(decision) if self._scored_features or decision.alert else None
        value = _encode(ScoredMessage(**common, features=features if self._scored_features else None))
        alert = None
        if decision.alert:
            threshold = self._model.threshold
            alert = _encode(AlertMessage(**common, features=features, threshold=threshold, reasons=reasons))
        key = decision.transaction.account_id
        return key, Outgoing(key.encode(), value, {}, alert)

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
