"""What moves between the steps of the flow, and what leaves it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from features.transaction import Label, Transaction


class Rejection(NamedTuple):
    """A message that cannot be scored, as it goes to the rejected topic: the original bytes, and why and whence."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """The error code, one of ``features.transaction.ERROR_CODES``."""
        return self.headers["error_code"]


class Arrival(NamedTuple):
    """A valid message, numbered in the order of reading; ``too_late`` holds its rejection where it came too late.

    No transaction before ``watermark`` (microseconds since 1970) comes after it, but those that are too late.
    """

    sequence: int
    event: Transaction | Label
    watermark: int
    too_late: Rejection | None


class Tick(NamedTuple):
    """Now and then from the reader to every worker: time to look for idle keys. ``watermark``: see ``Arrival``."""

    watermark: int


class AccountPart(NamedTuple):
    """What the account's step knows of an arrival: features, or a rejection, or neither where it is a duplicate.

    The features are the transaction's own and then the account's.
    """

    sequence: int
    transaction: Transaction
    features: list[float] | None
    rejection: Rejection | None


class MerchantPart(NamedTuple):
    """What the merchant's step knows of an arrival."""

    sequence: int
    account_id: str
    features: list[float]


class Candidate(NamedTuple):
    """A transaction with all of its features, in the order: own, account's, merchant's."""

    transaction: Transaction
    features: list[float]


class Decision(NamedTuple):
    """A scored transaction; ``row`` holds its features as the model saw them, float32 bytes."""

    transaction: Transaction
    score: float
    anomaly_score: float
    alert: bool
    row: bytes


class Outgoing(NamedTuple):
    """A message on its way to a topic; ``alert``: the value of the alert that it goes with, under the same key."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    alert: bytes | None = None


class Reason(msgspec.Struct):
    """Why: a feature, its value, what it adds to the score's log odds, and what the value says in words."""

    feature: str
    value: float | None
    contribution: float
    text: str


class ScoredMessage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A message of the ``scored`` topic."""

    transaction_id: str
    account_id: str
    merchant_id: str
    amount: float  # major units
    timestamp: str
    score: float
    anomaly_score: float
    alert: bool
    model: str
    scored_at: str
    features: dict[str, float | None] | None = None


class AlertMessage(ScoredMessage, kw_only=True):
    """A message of the ``alerts`` topic."""

    threshold: float
    reasons: list[Reason]
