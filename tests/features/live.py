"""The streaming side as a flow drives it: a state for every account and merchant, records one by one."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import polars as pl

from features.definitions import Entity, Feature
from features.measures import own_features
from features.state import EntityState, Plan
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
        self.states: dict[tuple[Entity, str], EntityState] = {}
        self.taken: list[Record] = []
        self._seen: set[str] = set()
        self._lateness = lateness // MICROSECOND
        self._watermark = 0

    def arrive(self, record: Record) -> Floats | None:
        """The features of a transaction that counts, float32 in the order given; None for everything else."""
        states = [self._state(entity, record) for entity in KEYED]
        if isinstance(record, Label):
            self.taken.append(record)
            for state in states:
                state.update_label(record)
            return None
        if record.transaction_id in self._seen or record.timestamp < self._watermark:
            return None
        # Everything may be forgotten as early as it ever may: before the transaction that moved the watermark is read.
        self._watermark = max(self._watermark, record.timestamp - self._lateness)
        for state in self.states.values():
            state.forget(self._watermark)
        values = self.probe(record)
        self._seen.add(record.transaction_id)
        self.taken.append(record)
        for state in states:
            state.update(record)
        return values

    def probe(self, transaction: Transaction) -> Floats:
        """The features that the transaction would have now; it is not taken in."""
        of_entity = {entity: iter(self._state(entity, transaction).get(transaction)) for entity in KEYED}
        of_entity[Entity.TRANSACTION] = iter(own_features(self.features, transaction))
        return np.array([next(of_entity[feature.entity]) for feature in self.features], dtype=np.float32)

    def restart(self, *, pickled: bool) -> None:
        """Puts every state away and brings it back, as a recovery does."""
        for key, state in self.states.items():
            if pickled:
                self.states[key] = pickle.loads(pickle.dumps(state))
            else:
                self.states[key] = EntityState.unpack(self.plans[key[0]], state.pack())

    def _state(self, entity: Entity, record: Record) -> EntityState:
        key = (entity, record.account_id if entity is Entity.ACCOUNT else record.merchant_id)
        if key not in self.states:
            self.states[key] = EntityState(self.plans[entity])
        return self.states[key]


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
