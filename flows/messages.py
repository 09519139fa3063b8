"""What leaves the flow, as the topics' JSON."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np

from features.transaction import EPOCH, MICROSECOND
from flows import metrics
from flows.model import Model
from flows.records import AlertMessage, Decisions, Outgoing, Rejection, ScoredMessage

_encode = msgspec.json.Encoder().encode


class Messages:
    """Writes decisions and rejections as messages."""

    def __init__(self, model: Model, *, scored_features: bool) -> None:
        self._model = model
        self._scored_features = scored_features

    def scored(self, decisions: Decisions) -> list[Outgoing]:
        """The messages of the ``scored`` topic, each with its alert where there is one."""
        of = decisions.transactions
        model, with_features, scored_at = self._model, self._scored_features, datetime.now(UTC)
        alerted = np.flatnonzero(decisions.alerts)
        alerts = dict(zip(alerted.tolist(), self._model.reasons(decisions.features[alerted]), strict=True))
        metrics.SCORED.inc(len(of))
        metrics.ALERTS.inc(len(alerts))
        metrics.SCORE.observe(decisions.scores)
        columns = zip(
            of.transaction_id,
            of.account_id,
            of.merchant_id,
            (of.amount / 100).tolist(),
            [EPOCH + instant * MICROSECOND for instant in of.timestamp.tolist()],
            decisions.scores,
            decisions.anomaly_scores,
            decisions.alerts,
            of.arrived.tolist(),
            strict=True,
        )
        messages = []
        for i, (identity, account, merchant, amount, at, score, anomaly, alert, arrived) in enumerate(columns):
            message = ScoredMessage(
                identity, account, merchant, amount, at, score, anomaly, alert, model.version, scored_at
            )
            if with_features or alert:
                features = model.values(decisions.features[i])
                message.features = features if with_features else None
            alert_value = None
            if alert:
                fields = msgspec.structs.asdict(message) | {"features": features}
                alert_value = _encode(AlertMessage(**fields, threshold=model.threshold, reasons=alerts[i]))
            messages.append(Outgoing(account.encode(), _encode(message), {}, alert_value, arrived))
        return messages

    def rejected(self, rejection: Rejection) -> list[Outgoing]:
        """The message of the ``rejected`` topic: the original key and bytes."""
        metrics.REJECTED.labels(rejection.code).inc()
        return [Outgoing(rejection.key, rejection.value, rejection.headers)]
