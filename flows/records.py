"""What moves between the steps of the flow, and what leaves it: batches, so that each step's work is one in arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.transaction import Label, Transaction

Rows = NDArray[np.float32]
Places = NDArray[np.int64]

TEXTS: Final = ("transaction_id", "account_id", "merchant_id", "transaction_type", "location", "device_id")


class Rejection(NamedTuple):
    """A message that cannot be scored, as it goes to the rejected topic: the original bytes, and why and whence."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """The error code, one of ``features.transaction.ERROR_CODES``."""
        return self.headers["error_code"]


@dataclass(frozen=True, slots=True)
class Transactions:
    """Transactions in the order of reading, as columns named as the fields of ``Transaction`` are.

    And ``arrived``: the Kafka timestamps of their messages, in milliseconds since 1970; 0 of those that earlier runs
    have read.
    """

    transaction_id: list[str]
    account_id: list[str]
    merchant_id: list[str]
    amount: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    transaction_type: list[str | None]
    location: list[str | None]
    device_id: list[str | None]
    arrived: NDArray[np.int64]

    @classmethod
    def of(cls, events: Sequence[Transaction], arrived: NDArray[np.int64] | None = None) -> Transactions:
        """The columns of transactions."""
        n = len(events)
        return cls(
            [e.transaction_id for e in events],
            [e.account_id for e in events],
            [e.merchant_id for e in events],
            np.fromiter((e.amount for e in events), np.int64, n),
            np.fromiter((e.timestamp for e in events), np.int64, n),
            [e.transaction_type for e in events],
            [e.location for e in events],
            [e.device_id for e in events],
            np.zeros(n, np.int64) if arrived is None else arrived,
        )

    def __len__(self) -> int:
        return len(self.timestamp)

    def between(self, since: int, until: int) -> Transactions:
        """Those from one place to before another."""
        columns = (getattr(self, field.name)[since:until] for field in fields(self))
        return Transactions(*columns)

    def at(self, places: Places, texts: Collection[str] = TEXTS) -> Transactions:
        """Some of them, in the order of the places; columns of texts that are not asked for are empty."""
        chosen = places.tolist()
        columns = {name: list(map(getattr(self, name).__getitem__, chosen)) if name in texts else [] for name in TEXTS}
        return Transactions(
            amount=self.amount[places], timestamp=self.timestamp[places], arrived=self.arrived[places], **columns
        )


def apart(events: Iterable[Transaction | Label]) -> tuple[Transactions, list[tuple[int, Label]]]:
    """The transactions among the events, and the labels, each with the number of transactions before it."""
    transactions: list[Transaction] = []
    labels: list[tuple[int, Label]] = []
    for event in events:
        if isinstance(event, Label):
            labels.append((len(transactions), event))
        else:
            transactions.append(event)
    return Transactions.of(transactions), labels


@dataclass(frozen=True, slots=True)
class ForAccounts:
    """What one shard of the accounts gets of a batch of the reader's.

    ``key``: the shard's. ``number``: of the reader's batch. ``watermark``: no transaction before that instant comes
    after the batch, in microseconds since 1970. ``past``: what an earlier run has scored, only to be remembered.
    """

    key: str
    number: int
    transactions: Transactions
    watermark: int
    past: bool


class Home(NamedTuple):
    """Transactions of a batch that belong to one shard of the accounts.

    ``key``: the shard's. ``here``: where they are in the batch. ``there``: where they are in what that shard got.
    """

    key: str
    here: Places
    there: Places


@dataclass(frozen=True, slots=True)
class ForMerchants:
    """What one shard of the merchants gets of a batch of the reader's; see ``ForAccounts``.

    ``transactions`` have only the texts that the merchants' windows look at, where these may be another process's.
    ``homes``: to which shards of the accounts the features go. ``labels``: each with the number of transactions of the
    batch that were read before it.
    """

    key: str
    number: int
    transactions: Transactions
    watermark: int
    past: bool
    homes: list[Home]
    labels: list[tuple[int, Label]]


class Beat(NamedTuple):
    """The reader's word to one process that an epoch has closed in all of them; see ``flows.pulse``.

    ``key``: of a shard of that process. ``replayed``: whether what earlier runs had read was given back by then.
    """

    key: str
    replayed: bool


@dataclass(frozen=True, slots=True)
class MerchantRows:
    """The merchants' features of transactions that one shard of the accounts got: float32 [len(there), features]."""

    key: str
    number: int
    there: Places
    features: Rows


@dataclass(frozen=True, slots=True)
class Candidates:
    """Transactions with all of their features, float32 [n, features], in the order: own, account's, merchant's."""

    transactions: Transactions
    features: Rows


@dataclass(frozen=True, slots=True)
class Decisions:
    """Scored transactions, with their features as the model saw them."""

    transactions: Transactions
    features: Rows
    scores: list[float]
    anomaly_scores: list[float]
    alerts: list[bool]


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message on its way to a topic.

    ``alert``: the value of the alert that it goes with, under the same key. ``arrived``: the Kafka timestamp of the
    message that it answers, in milliseconds since 1970, where the time that this took is to be measured; else 0.
    """

    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    alert: bytes | None = None
    arrived: int = 0


class Reason(msgspec.Struct):
    """Why: a feature, its value, what it adds to the score's log odds, and what the value says in words."""

    feature: str
    value: float | None
    contribution: float
    text: str


class ScoredMessage(msgspec.Struct, omit_defaults=True):
    """A message of the ``scored`` topic."""

    transaction_id: str
    account_id: str
    merchant_id: str
    amount: float  # major units
    timestamp: datetime
    score: float
    anomaly_score: float
    alert: bool
    model: str
    scored_at: datetime
    features: dict[str, float | None] | None = None


class AlertMessage(ScoredMessage, kw_only=True):
    """A message of the ``alerts`` topic."""

    threshold: float
    reasons: list[Reason]
