"""What leaves the flow, as JSON that a consumer reads with nothing but the json module."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from features.bundle import load
from features.definitions import FEATURES
from features.transaction import MAX_AMOUNT, Transaction, microseconds, parse_transaction
from flows.messages import Messages
from flows.model import Model
from flows.records import Candidates, Decisions, Outgoing, Reason, Rejection, Transactions
from tests.flows import bundles

NOW = microseconds(datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC))
COMMON = ["transaction_id", "account_id", "merchant_id", "amount", "timestamp", "score", "anomaly_score", "alert"]
NAMES = [feature.name for feature in FEATURES]
NO_ROW = np.empty((1, len(NAMES)), np.float32)
T = TypeVar("T")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(load(bundles.make(tmp_path_factory.mktemp("models"))))


def decide(model: Model, *transactions: Transaction) -> Decisions:
    rows = np.empty((len(transactions), len(NAMES)), np.float32)
    rows[:] = [math.nan if i % 3 else i / 7 for i in range(len(NAMES))]
    rows[:, 0] = [transaction.amount / 100 for transaction in transactions]
    return model.score(Candidates(Transactions.of(transactions), rows))


def only(items: list[T]) -> T:
    (item,) = items
    return item


def total(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_scored(model: Model) -> None:
    before = total("vigie_scored_total")
    decisions = decide(model, Transaction("t1", "Zoë", "m", 12_345, NOW))
    began = datetime.now(UTC)
    outgoing = only(Messages(model, scored_features=False).scored(decisions))
    value = outgoing.value
    assert (outgoing.key, outgoing.headers, outgoing.alert) == ("Zoë".encode(), {}, None)
    assert value is not None
    message = json.loads(value)
    assert list(message) == [*COMMON, "model", "scored_at"]
    scored_at = datetime.fromisoformat(message.pop("scored_at"))
    assert began <= scored_at <= began + timedelta(seconds=5)
    assert message == {
        "transaction_id": "t1",
        "account_id": "Zoë",
        "merchant_id": "m",
        "amount": 123.45,
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "score": decisions.scores[0],
        "anomaly_score": decisions.anomaly_scores[0],
        "alert": False,
        "model": "test-1",
    }
    assert total("vigie_scored_total") == before + 1


def test_scored_with_features(model: Model) -> None:
    decisions = decide(model, Transaction("t1", "a", "m", 12_345, NOW))
    outgoing = only(Messages(model, scored_features=True).scored(decisions))
    value = outgoing.value
    assert value is not None
    features = json.loads(value)["features"]
    assert list(features) == NAMES
    for number, sent in zip(decisions.features[0], features.values(), strict=True):
        assert sent is None if np.isnan(number) else np.float32(sent) == number


@pytest.mark.parametrize("scored_features", [True, False])
def test_alert(model: Model, scored_features: bool) -> None:
    before = total("vigie_alerts_total")
    decisions = decide(model, Transaction("t1", "a", "m", 30_000, NOW))
    messages = Messages(model, scored_features=scored_features)
    outgoing = only(messages.scored(decisions))
    scored, value = outgoing.value, outgoing.alert
    assert (outgoing.key, outgoing.headers) == (b"a", {})
    assert scored is not None
    assert value is not None
    message = json.loads(value)
    assert {name: message[name] for name in (*COMMON, "model", "scored_at")}.items() <= json.loads(scored).items()
    assert ("features" in json.loads(scored)) is scored_features
    assert list(message) == [*COMMON, "model", "scored_at", "features", "threshold", "reasons"]
    assert message["alert"] is True
    assert message["threshold"] == bundles.THRESHOLD
    assert message["features"] == model.values(decisions.features[0])
    assert message["reasons"] == msgspec.to_builtins(only(model.reasons(decisions.features)))
    assert message["reasons"][0] == {
        "feature": "amount",
        "value": 300.0,
        "contribution": pytest.approx(12.5, abs=1e-5),
        "text": "amount 300.00",
    }
    assert list(message["reasons"][0]) == ["feature", "value", "contribution", "text"]
    assert total("vigie_alerts_total") == before + 1


def test_a_reason_may_be_a_missing_value(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    decisions = decide(model, Transaction("t1", "a", "m", 30_000, NOW))
    monkeypatch.setattr(model, "reasons", lambda _rows: [[Reason("hour", None, 0.5, "no hour")]])
    outgoing = only(Messages(model, scored_features=False).scored(decisions))
    value = outgoing.alert
    assert value is not None
    assert json.loads(value)["reasons"] == [{"feature": "hour", "value": None, "contribution": 0.5, "text": "no hour"}]


@given(
    st.text(min_size=1, max_size=64),
    st.integers(-MAX_AMOUNT * 100, MAX_AMOUNT * 100),
    st.integers(0, NOW),
)
def test_what_was_sent_can_be_read_back(model: Model, account: str, amount: int, timestamp: int) -> None:
    transaction = Transaction(account[::-1], account, account.swapcase(), amount, timestamp)
    messages = Messages(model, scored_features=False)
    outgoing = only(messages.scored(Decisions(Transactions.of([transaction]), NO_ROW, [0.25], [0.75], [False])))
    value = outgoing.value
    assert value is not None
    if len(transaction.merchant_id) <= 64:  # swapping the case may make a text longer
        assert parse_transaction(value, NOW) == transaction
    assert json.loads(value)["amount"] == amount / 100


def test_alerts_among_others_keep_their_own_reasons(model: Model) -> None:
    amounts = [30_000, 100, 50_000, 200, 300, 40_000]
    decisions = decide(model, *(Transaction(f"t{amount}", "a", "m", amount, NOW) for amount in amounts))
    alerts = {}
    written = Messages(model, scored_features=False).scored(decisions)
    for amount, alerted, outgoing in zip(amounts, decisions.alerts, written, strict=True):
        assert json.loads(outgoing.value or b"")["transaction_id"] == f"t{amount}"
        assert (outgoing.alert is None) == (not alerted)
        if outgoing.alert is not None:
            alerts[amount] = json.loads(outgoing.alert)["reasons"][0]["value"]
    assert alerts == {30_000: 300.0, 50_000: 500.0, 40_000: 400.0}


@pytest.mark.parametrize("original", [None, b"", b"a1", "é".encode(), b"\xff"])
def test_rejected_carries_the_original_bytes(model: Model, original: bytes | None) -> None:
    before = total("vigie_rejected_total", code="not_json")
    headers = {"error_code": "not_json", "error_message": "x"}
    rejection = Rejection(original, b"\x00\xff", headers)
    written = Messages(model, scored_features=False).rejected(rejection)
    assert written == [Outgoing(original, b"\x00\xff", headers)]
    assert total("vigie_rejected_total", code="not_json") == before + 1
