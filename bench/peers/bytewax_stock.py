"""Bytewax with the connectors that it ships: states by account, then by merchant, snapshots each second.

At-least-once: what it wrote after the last snapshot is written again after a crash.
"""

from __future__ import annotations

from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic

from bench.peers.features import PeerFeatures
from bench.peers.scoring import ANY_TIME, Place, Scorer
from features.definitions import Entity
from features.transaction import Transaction, parse_transaction

Row = tuple[Transaction, list[float]]


def flow() -> Dataflow:
    """The dataflow; ``bytewax.run`` calls this."""
    place = Place.from_environment()
    scorer = Scorer(place.model)
    features = PeerFeatures(scorer.bundle.features)

    class Account(StatefulBatchLogic[Transaction, Row, bytes]):
        def __init__(self, packed: bytes | None) -> None:
            self.state = features.restored(Entity.ACCOUNT, packed) if packed else features.new(Entity.ACCOUNT)

        def on_batch(self, values: list[Transaction]) -> tuple[list[Row], bool]:
            return [(t, features.of_account(self.state, t)) for t in values], self.RETAIN

        def snapshot(self) -> bytes:
            return self.state.pack()

    class Merchant(StatefulBatchLogic[Row, Row, bytes]):
        def __init__(self, packed: bytes | None) -> None:
            self.state = features.restored(Entity.MERCHANT, packed) if packed else features.new(Entity.MERCHANT)

        def on_batch(self, values: list[Row]) -> tuple[list[Row], bool]:
            # The step before gives them account by account, not in the order in which they came.
            values.sort(key=lambda row: row[0].timestamp)
            return [(t, row + features.of_merchant(self.state, t)) for t, row in values], self.RETAIN

        def snapshot(self) -> bytes:
            return self.state.pack()

    def parsed(records: list[Any]) -> list[tuple[str, Transaction]]:
        transactions = [parse_transaction(record.value, ANY_TIME) for record in records]
        return [(t.account_id, t) for t in transactions]

    def scored(rows: list[Row]) -> list[KafkaSinkMessage[bytes | None, bytes | None]]:
        scores = scorer.scores([row for _, row in rows])
        return [
            KafkaSinkMessage(t.account_id.encode(), scorer.message(t, *both))
            for (t, _), both in zip(rows, scores, strict=True)
        ]

    stock = Dataflow("stock")
    records = op.input("read", stock, KafkaSource([place.bootstrap], [place.transactions]))
    by_account = op.flat_map_batch("parse", records, parsed)  # (account_id, Transaction)
    of_account = op.stateful_batch("account", by_account, Account)  # (account_id, Row)
    by_merchant = op.map("by_merchant", of_account, lambda keyed: (keyed[1][0].merchant_id, keyed[1]))
    rows = op.key_rm("rows", op.stateful_batch("merchant", by_merchant, Merchant))  # Row
    op.output("write", op.flat_map_batch("score", rows, scored), KafkaSink([place.bootstrap], place.scored))
    return stock
