"""A made-up history, the messages that carry it, and what training makes of it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, cast

import numpy as np
from confluent_kafka import Message

from features import batch
from features.transaction import MICROSECOND, Label, Transaction, microseconds, rfc3339
from flows.intake import Reading
from flows.records import Rejection
from tests.features.histories import MONDAY
from tests.features.live import bits, frame
from tests.features.oracle import Record

DAY: Final = 86_400_000_000  # microseconds


class Sent(NamedTuple):
    """A message on its way in."""

    key: str | None
    value: bytes | None


def history(n: int, *, days: int = 45, seed: int = 7) -> tuple[list[Transaction], list[Label]]:
    """A made-up history of 2018, in order of time: transactions, and a label for some of them a week or two later."""
    rng = random.Random(seed)
    begin = microseconds(datetime(2018, 4, 1, tzinfo=UTC))
    transactions, labels = [], []
    for number, instant in enumerate(sorted(rng.randrange(days * 86_400) for _ in range(n))):
        transaction = Transaction(
            f"t{number}",
            f"a{rng.randrange(40)}",
            f"m{rng.randrange(25)}",
            rng.randrange(100, 30_000),
            begin + instant * 1_000_000,
            rng.choice(["card", "transfer", None]),
            rng.choice(["Paris", "Lyon", "Nîmes", None]),
            rng.choice([f"d{rng.randrange(5)}", None]),
        )
        transactions.append(transaction)
        if rng.random() < 0.2:
            ids = (transaction.transaction_id, transaction.account_id, transaction.merchant_id)
            known = transaction.timestamp + rng.choice([1, 7, 12]) * DAY
            labels.append(Label(*ids, transaction.timestamp, rng.random() < 0.8, known))
    return transactions, sorted(labels, key=lambda label: label.labelled_at)


def transaction_message(transaction: Transaction) -> Sent:
    """As an ordinary producer writes it: keyed by account, missing fields left out."""
    fields = {
        name: value
        for name, value in (
            ("transaction_id", transaction.transaction_id),
            ("account_id", transaction.account_id),
            ("merchant_id", transaction.merchant_id),
            ("amount", transaction.amount / 100),
            ("timestamp", rfc3339(transaction.timestamp)),
            ("transaction_type", transaction.transaction_type),
            ("location", transaction.location),
            ("device_id", transaction.device_id),
        )
        if value is not None
    }
    return Sent(transaction.account_id, json.dumps(fields).encode())


def label_message(label: Label) -> Sent:
    """Keyed by merchant."""
    fields = {
        "transaction_id": label.transaction_id,
        "account_id": label.account_id,
        "merchant_id": label.merchant_id,
        "timestamp": rfc3339(label.timestamp),
        "is_fraud": label.is_fraud,
        "labelled_at": rfc3339(label.labelled_at),
    }
    return Sent(label.merchant_id, json.dumps(fields).encode())


def expected_features(transactions: Sequence[Transaction], labels: Sequence[Label]) -> dict[str, list[str]]:
    """What training would compute of the same data: the bits of each transaction's features, by its id."""
    rows = batch.compute(frame([*transactions, *labels])).to_numpy()
    return {t.transaction_id: bits(row) for t, row in zip(transactions, rows, strict=True)}


def feature_bits(message: Mapping[str, Any]) -> list[str]:
    """The bits of a scored message's features."""
    values = message["features"].values()
    return bits(np.array([np.nan if value is None else value for value in values], np.float32))


def pay(transaction: str, *, day: float, account: str = "a", merchant: str = "m", amount: int = 1_000) -> Transaction:
    """A payment some days after a Monday in 2018."""
    return Transaction(transaction, account, merchant, amount, MONDAY + round(day * DAY))


class Feed:
    """Records as the reader hands them on, each with the watermark: late by all that came before."""

    def __init__(self, lateness: timedelta) -> None:
        self._lateness = lateness // MICROSECOND
        self.watermark = 0

    def reading(self, record: Record | Rejection) -> tuple[Reading, int]:
        """The next one."""
        watermark = self.watermark
        if isinstance(record, Transaction):
            self.watermark = max(watermark, record.timestamp - self._lateness)
        return Reading(record, late=False, message=cast("Message", Read())), watermark


class Read:
    """Stands for a Kafka message, which nobody but the client can make."""

    def key(self) -> bytes | None:
        return b"a"

    def value(self) -> bytes | None:
        return b"{}"

    def topic(self) -> str:
        return "transactions"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_522_540_800_000
