"""The streaming side as a flow drives it: a state for every account and merchant, records one by one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.definitions import Entity, Feature
from features.measures import own
from features.state import EntityStates, Plan
from features.transaction import EPOCH, MICROSECOND, Label, Transaction
from tests.features.oracle import Floats, Record

KEYED = (Entity.ACCOUNT, Entity.MERCHANT)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "transaction_id": pl.String,
    "account_id": pl.String,
    "merchant_id": pl.String,
    "amount": pl.Int64,
    "timestamp": pl.Datetime("us", "UTC"),
    "transaction_type": pl.String,
    "location": pl.String,
    "device_id": pl.String,
    "is_fraud": pl.Boolean,
    "labelled_at": pl.Datetime("us", "UTC"),
}


class Live:
    """Takes records in their order of arrival; ``taken`` are those that count: no duplicates, none too late."""

    def __init__(self, features: Sequence[Feature], lateness: timedelta) -> None:
        self.features = tuple(features)
        self.plans = {entity: Plan(features, entity) for entity in KEYED}
        self.states = {entity: EntityStates(plan) for entity, plan in self.plans.items()}
        self.taken: list[Record] = []
        self._seen: set[str] = set()
        self._lateness = lateness // MICROSECOND
        self._watermark = 0

    def arrive(self, record: Record) -> Floats | None:
        """The features of a transaction that counts, float32 in the order given; None for everything else."""
        (values,) = self.arrive_together([record])
        return values

    def arrive_together(self, records: Sequence[Record]) -> list[Floats | None]:
        """The same for several records; transactions without a label between them come to the states as one batch."""
        found: list[Floats | None] = [None] * len(records)
        batch: list[int] = []

        def take() -> None:
            if batch:
                for at, values in zip(batch, self._values("take", [records[at] for at in batch]), strict=True):
                    found[at] = values
                batch.clear()

        for at, record in enumerate(records):
            if isinstance(record, Label):
                take()
                self.taken.append(record)
                for entity, states in self.states.items():
                    states.label(key_of(entity, record), record)
            elif record.transaction_id not in self._seen and record.timestamp >= self._watermark:
                self._watermark = max(self._watermark, record.timestamp - self._lateness)
                if not batch:
                    # Everything may be forgotten as early as it ever may: before what moved the watermark is read.
                    for states in self.states.values():
                        states.forget(self._watermark)
                self._seen.add(record.transaction_id)
                self.taken.append(record)
                batch.append(at)
        take()
        return found

    def probe(self, transaction: Transaction) -> Floats:
        """The features that the transaction would have now; it is not taken in."""
        values: Floats = self._values("get", [transaction])[0]
        return values

    def _values(self, how: Literal["take", "get"], records: Sequence[Record]) -> Floats:
        """Float32 [records, features]."""
        transactions = [record for record in records if isinstance(record, Transaction)]
        instants, amounts = columns(transactions)
        values = np.empty((len(transactions), len(self.features)), np.float32)
        for entity in Entity:
            chosen = [i for i, feature in enumerate(self.features) if feature.entity is entity]
            part = np.empty((len(transactions), len(chosen)), np.float32)
            if entity is Entity.TRANSACTION:
                own(self.features, instants, amounts, part)
            else:
                run = self.states[entity].take if how == "take" else self.states[entity].get
                keys = [key_of(entity, transaction) for transaction in transactions]
                run(keys, instants, amounts, texts(self.plans[entity], transactions), part)
            values[:, chosen] = part
        return values


def key_of(entity: Entity, record: Record) -> str:
    """Whose event it is."""
    return record.account_id if entity is Entity.ACCOUNT else record.merchant_id


def columns(transactions: Sequence[Transaction]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Instants and amounts."""
    return (
        np.array([transaction.timestamp for transaction in transactions], np.int64),
        np.array([transaction.amount for transaction in transactions], np.int64),
    )


def texts(plan: Plan, transactions: Sequence[Transaction]) -> list[list[str | None]]:
    """A column for each of the plan's fields."""
    return [[getattr(transaction, field) for transaction in transactions] for field in plan.fields]


def frame(records: Sequence[Record], world: str = "") -> pl.DataFrame:
    """The canonical history frame of the transactions among the records, with the (last) label of each.

    ``world`` goes before every account and merchant id, so that several histories fit into one frame without meeting.
    """
    labels = {record.transaction_id: record for record in records if isinstance(record, Label)}
    rows = []
    for record in records:
        if isinstance(record, Transaction):
            label = labels.get(record.transaction_id)
            rows.append(
                {
                    "transaction_id": record.transaction_id,
                    "account_id": world + record.account_id,
                    "merchant_id": world + record.merchant_id,
                    "amount": record.amount,
                    "timestamp": EPOCH + record.timestamp * MICROSECOND,
                    "transaction_type": record.transaction_type,
                    "location": record.location,
                    "device_id": record.device_id,
                    "is_fraud": label is not None and label.is_fraud,
                    "labelled_at": None if label is None else EPOCH + label.labelled_at * MICROSECOND,
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def bits(values: Floats) -> list[str]:
    """Each float32 as its bits in hex; every NaN as one word, since a NaN's payload means nothing."""
    return ["nan" if np.isnan(value) else f"{value.view(np.uint32):08x}" for value in values]


def differing(features: Sequence[Feature], found: Floats, expected: Floats) -> dict[str, tuple[float, float]]:
    """The features whose bits differ, with what was found and what was expected."""
    pairs = zip(features, found, expected, bits(found), bits(expected), strict=True)
    return {f.name: (float(a), float(b)) for f, a, b, x, y in pairs if x != y}
