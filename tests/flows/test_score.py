"""The whole flow on a real Kafka: what goes in comes out once, in the form that the design gives it."""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from features.definitions import FEATURES
from features.transaction import ERROR_CODES, Label, Transaction, rfc3339
from flows.local_kafka import LocalKafka, free_port
from tests.flows import bundles
from tests.flows.running import Flow, Received, launch, running
from tests.flows.traffic import (
    DAY,
    Sent,
    expected_features,
    feature_bits,
    history,
    label_message,
    transaction_message,
)

COMMON = {
    "transaction_id": str,
    "account_id": str,
    "merchant_id": str,
    "amount": float,
    "timestamp": str,
    "score": float,
    "anomaly_score": float,
    "alert": bool,
    "model": str,
    "scored_at": str,
    "features": dict,
}
HEADERS = {"error_code", "error_message", "source_topic", "source_partition", "source_offset", "rejected_at"}


def garbage() -> dict[str, list[Sent]]:
    """For each error code messages that have it."""
    right = {
        "transaction_id": "g1",
        "account_id": "a1",
        "merchant_id": "m1",
        "amount": 12.5,
        "timestamp": "2018-04-20T10:00:00Z",
    }

    def but(**changes: object) -> Sent:
        return Sent("a1", json.dumps(right | changes).encode())

    text = json.dumps(right)
    return {
        "empty_value": [Sent("a1", None), Sent(None, b"")],
        "not_utf8": [Sent("a1", text.replace("g1", "\xff").encode("latin-1"))],
        "not_json": [Sent("a1", text[:-1].encode()), Sent(None, b"12\x00")],
        "not_an_object": [Sent("a1", b"[1, 2]"), Sent("", b"null")],
        "missing_field": [Sent("a1", b"{}")],
        "wrong_type": [but(amount="12.5"), but(account_id=None), but(device_id=7)],
        "empty_id": [but(merchant_id="")],
        "id_too_long": [but(transaction_id="x" * 65)],
        "text_too_long": [but(location="x" * 257)],
        "amount_not_finite": [but(amount=math.nan), but(amount=-math.inf)],
        "amount_out_of_range": [but(amount=1e11)],
        "timestamp_invalid": [but(timestamp="yesterday")],
        "timestamp_without_offset": [but(timestamp="2018-04-20T10:00:00")],
        "timestamp_before_1970": [but(timestamp="1969-12-31T23:59:59Z")],
        "timestamp_in_future": [but(timestamp="2500-01-01T00:00:00Z")],
    }


class Outcome(NamedTuple):
    """What was sent and what came of it."""

    transactions: list[Transaction]  # each once, those to be scored
    labels: list[Label]
    sent: list[Sent]  # to the transactions topic
    repeats: int
    late: Transaction
    broken: dict[str, list[Sent]]
    broken_label: Sent
    status: int
    flow: Flow
    scored: list[Received]
    alerts: list[Received]
    rejected: list[Received]
    began: datetime
    ended: datetime

    def features(self) -> dict[str, list[str]]:
        """What training would compute."""
        return expected_features(self.transactions, self.labels)


def numbered(transaction: Transaction) -> Transaction:
    """Accounts a0 to a9 become 0 to 9, and half of the transactions' ids become numbers too."""
    number = int(transaction.transaction_id[1:])
    account = transaction.account_id[1:] if len(transaction.account_id) == 2 else transaction.account_id
    return msgspec.structs.replace(
        transaction, account_id=account, transaction_id=str(number) if number % 2 else transaction.transaction_id
    )


def with_integers(message: Sent, rng: random.Random) -> Sent:
    """The message with some of its numeric ids as JSON integers."""
    assert message.value is not None
    fields = json.loads(message.value)
    for name, value in fields.items():
        if name.endswith("_id") and value.isdecimal() and name != "device_id" and rng.random() < 0.5:
            fields[name] = int(value)
    return Sent(message.key, json.dumps(fields).encode())


@pytest.fixture(scope="module")
def outcome(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    rng = random.Random(3)
    plain, labels = history(600)
    transactions = [numbered(transaction) for transaction in plain]
    accounts = {before.account_id: after.account_id for before, after in zip(plain, transactions, strict=True)}
    ids = {before.transaction_id: after.transaction_id for before, after in zip(plain, transactions, strict=True)}
    labels = [
        msgspec.structs.replace(label, transaction_id=ids[label.transaction_id], account_id=accounts[label.account_id])
        for label in labels
    ]
    newest = transactions[-1].timestamp
    # Of an account and a merchant of their own, so that nobody's earlier windows should have held them.
    late = Transaction("late-1", "apart", "apart", 1_00, newest - DAY + 1)
    later = Transaction("late-2", "apart", "apart", 250_00, newest - DAY // 2, device_id="d1")
    too_late = Transaction("late-3", "apart", "apart", 3_00, newest - 2 * DAY)
    transactions += [late, later]

    sent = [with_integers(transaction_message(transaction), rng) for transaction in transactions]
    repeats = 0
    for place in sorted(rng.sample(range(1, 600), 40), reverse=True):
        of = rng.randrange(max(0, place - 15), place)  # within the horizon: 15 of 600 in 45 days are a good day
        message = transaction_message(msgspec.structs.replace(transactions[of], amount=transactions[of].amount + 100))
        sent.insert(place, message)
        repeats += 1
    broken = garbage()
    for message in [message for messages in broken.values() for message in messages]:
        sent.insert(rng.randrange(len(sent) - 2), message)
    sent.append(transaction_message(too_late))
    broken_label = Sent(None, json.dumps({"transaction_id": 1, "is_fraud": "yes"}).encode())

    began = datetime.now(UTC)
    with running(kafka.bootstrap_servers, tmp_path_factory.mktemp("score")) as flow:
        flow.produce("transactions", sent)
        flow.produce("labels", [*map(label_message, labels), broken_label])
        flow.start()
        flow.read_all("scored", len(transactions))
        flow.read_all("rejected", sum(map(len, broken.values())) + 2)
        status = flow.stop()
        yield Outcome(
            transactions,
            labels,
            sent,
            repeats,
            too_late,
            broken,
            broken_label,
            status,
            flow,
            flow.read_rest("scored"),
            flow.read_rest("alerts"),
            flow.read_rest("rejected"),
            began,
            datetime.now(UTC),
        )


def test_stops_on_signals_with_status_zero(outcome: Outcome) -> None:
    assert outcome.status == 0
    assert "Traceback" not in outcome.flow.console_text()


def test_every_message_is_scored_or_rejected_or_a_counted_duplicate(outcome: Outcome) -> None:
    scored = Counter(record.json["transaction_id"] for record in outcome.scored)
    assert scored == Counter(transaction.transaction_id for transaction in outcome.transactions)
    last = outcome.flow.logged("so far")[-1]
    assert last["duplicates"] == outcome.repeats
    assert last["read"] == len(outcome.sent) + len(outcome.labels) + 1
    of_transactions = [r for r in outcome.rejected if r.headers["source_topic"] == outcome.flow.topics["transactions"]]
    assert len(outcome.scored) + len(of_transactions) + outcome.repeats == len(outcome.sent)
    assert (last["scored"], last["rejected"], last["alerts"]) == (
        len(outcome.scored),
        len(outcome.rejected),
        len(outcome.alerts),
    )


def test_scored_says_what_was_sent_and_how_it_scored(outcome: Outcome) -> None:
    by_id = {transaction.transaction_id: transaction for transaction in outcome.transactions}
    partitions: dict[str, set[int]] = {}
    for record in outcome.scored:
        message = record.json
        assert {name: type(value) for name, value in message.items()} == COMMON
        transaction = by_id[message["transaction_id"]]
        assert message["account_id"] == transaction.account_id
        assert message["merchant_id"] == transaction.merchant_id
        assert message["amount"] == transaction.amount / 100
        assert message["timestamp"] == rfc3339(transaction.timestamp)
        assert message["score"] == pytest.approx(bundles.expected_score(message["amount"]), abs=1e-6)
        assert message["anomaly_score"] == pytest.approx(1 - message["score"], abs=1e-6)
        assert message["alert"] == (message["score"] >= bundles.THRESHOLD)
        assert message["model"] == "test-1"
        assert outcome.began < instant(message["scored_at"]) < outcome.ended
        assert record.key == transaction.account_id.encode()
        assert record.headers == {}
        partitions.setdefault(transaction.account_id, set()).add(record.partition)
    assert all(len(of_account) == 1 for of_account in partitions.values())
    assert len(set.union(*partitions.values())) == 3


def test_features_of_scored_and_alerts_are_those_of_training_to_the_bit(outcome: Outcome) -> None:
    expected = outcome.features()
    names = [feature.name for feature in FEATURES]
    for record in [*outcome.scored, *outcome.alerts]:
        assert list(record.json["features"]) == names
        assert feature_bits(record.json) == expected[record.json["transaction_id"]]


def test_an_account_is_the_same_as_integer_and_as_text(outcome: Outcome) -> None:
    sent = [message.value or b"" for message in outcome.sent]
    assert any(b'"account_id": 3,' in value for value in sent)
    assert any(b'"account_id": "3",' in value for value in sent)
    counts = [r.json["features"]["account_count_30d"] for r in outcome.scored if r.json["account_id"] == "3"]
    assert sum(count == 0 for count in counts) == 1


def test_alerts_are_the_scored_over_the_threshold_and_say_why(outcome: Outcome) -> None:
    scored = {record.json["transaction_id"]: record.json for record in outcome.scored}
    raised = {transaction_id for transaction_id, message in scored.items() if message["alert"]}
    assert Counter(record.json["transaction_id"] for record in outcome.alerts) == Counter(raised)
    assert 50 < len(raised) < 500
    for record in outcome.alerts:
        message = record.json
        kinds = {name: type(value) for name, value in message.items()}
        assert kinds == COMMON | {"threshold": float, "reasons": list}
        of_scored = scored[message["transaction_id"]]
        assert {name: message[name] for name in COMMON if name != "scored_at"} == {
            name: of_scored[name] for name in COMMON if name != "scored_at"
        }
        assert message["threshold"] == bundles.THRESHOLD
        assert record.key == message["account_id"].encode()
        assert record.headers == {}
        # The score is a logistic curve of the amount, so its log odds are a line, and nothing else has a part in it.
        (reason,) = message["reasons"]
        assert reason.keys() == {"feature", "value", "contribution", "text"}
        assert reason["feature"] == "amount"
        assert np.float32(reason["value"]) == np.float32(message["amount"])
        assert reason["contribution"] == pytest.approx((message["amount"] - 50.0) / bundles.SCALE, abs=1e-5)
        assert reason["text"] == f"amount {message['amount']:,.2f}"


def test_rejected_holds_the_original_and_tells_what_is_wrong_with_it(outcome: Outcome) -> None:
    assert {record.headers["error_code"] for record in outcome.rejected} == set(ERROR_CODES)
    found = Counter((record.key, record.value or b"", record.headers["error_code"]) for record in outcome.rejected)
    assert found == Counter(
        (None if message.key is None else message.key.encode(), message.value or b"", code)
        for code, messages in [
            *outcome.broken.items(),
            ("too_late", [transaction_message(outcome.late)]),
            ("missing_field", [outcome.broken_label]),
        ]
        for message in messages
    )
    for record in outcome.rejected:
        assert record.headers.keys() == HEADERS
        assert outcome.began < instant(record.headers["rejected_at"]) < outcome.ended
        assert len(record.headers["error_message"]) > 20


def test_rejected_tells_where_the_original_is(outcome: Outcome) -> None:
    places = {
        (outcome.flow.topics[purpose], str(record.partition), str(record.offset)): (record.key, record.value)
        for purpose in ("transactions", "labels")
        for record in outcome.flow.read_rest(purpose)
    }
    for record in outcome.rejected:
        topic, partition, offset = (record.headers[f"source_{name}"] for name in ("topic", "partition", "offset"))
        assert places[topic, partition, offset] == (record.key, record.value)


def test_logs_have_no_line_for_every_transaction(outcome: Outcome) -> None:
    assert len(outcome.flow.log_file.read_text().splitlines()) < 30


def test_what_it_cannot_start_with_is_one_line_and_a_failure(kafka: LocalKafka, tmp_path: Path) -> None:
    model = str(bundles.make(tmp_path / "models"))
    base = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "VIGIE_MODEL": model,
        "VIGIE_KAFKA_TIMEOUT": "1s",
        "VIGIE_LOG_DIRECTORY": str(tmp_path / "logs"),
        "VIGIE_LOG_LEVEL": "ERROR",
    }
    port = free_port()
    cases = {
        f"no Kafka at 127.0.0.1:{port} within 1 s": {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}"},
        f"no model bundle at {tmp_path}/nothing": {"VIGIE_MODEL": f"{tmp_path}/nothing"},
        "no topic never-": {"VIGIE_CREATE_TOPICS": "false", "VIGIE_TRANSACTIONS_TOPIC": "never-created"},
        "'soon'": {"VIGIE_KAFKA_TIMEOUT": "soon"},
    }
    # At the same time, because most of it is Python's start.
    processes = {text: launch(base | changes, subprocess.PIPE) for text, changes in cases.items()}
    printed = {text: (process.communicate(timeout=60), process.returncode) for text, process in processes.items()}
    for text, ((out, err), status) in printed.items():
        lines = [line for line in (out + err).decode().splitlines() if "rdkafka" not in line]
        assert status not in (0, None)
        assert len(lines) == 1, "\n".join(lines)
        assert lines[0].startswith("vigie: ")
        assert text in lines[0]


def instant(text: str) -> datetime:
    """RFC 3339 in UTC."""
    assert text.endswith("Z")
    parsed = datetime.fromisoformat(text)
    assert parsed.utcoffset() == timedelta(0)
    return parsed
