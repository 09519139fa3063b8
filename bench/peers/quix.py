"""Quix Streams: stateful by account, grouped by merchant (by way of a topic, as it does), state in RocksDB.

At-least-once, changelog topics and the commit interval are its defaults. States are kept as bytes: what it offers
otherwise is JSON.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from quixstreams import Application, State

from bench.peers.features import PeerFeatures
from bench.peers.scoring import Place, Scorer
from features.definitions import Entity
from features.transaction import Transaction, microseconds

Message = dict[str, Any]
MISSING = math.nan


def main() -> None:
    """Runs until it is killed."""
    place = Place.from_environment()
    scorer = Scorer(place.model)
    features = PeerFeatures(scorer.bundle.features)

    def of_account(message: Message, state: State) -> Message:
        transaction = transaction_of(message)
        packed = state.get_bytes("state")
        kept = features.restored(Entity.ACCOUNT, packed) if packed else features.new(Entity.ACCOUNT)
        message["features"] = features.of_account(kept, transaction)
        state.set_bytes("state", kept.pack())
        return message

    def of_merchant(message: Message, state: State) -> Message:
        transaction = transaction_of(message)
        packed = state.get_bytes("state")
        kept = features.restored(Entity.MERCHANT, packed) if packed else features.new(Entity.MERCHANT)
        # On its way through the topic between, which is JSON, a missing value has become null.
        own = [MISSING if value is None else value for value in message["features"]]
        message["features"] = own + features.of_merchant(kept, transaction)
        state.set_bytes("state", kept.pack())
        return message

    def scored(message: Message) -> Message:
        ((score, anomaly_score),) = scorer.scores([message["features"]])
        return scorer.fields(transaction_of(message), score, anomaly_score)

    application = Application(
        broker_address=place.bootstrap,
        consumer_group=place.group,
        auto_offset_reset="earliest",
        processing_guarantee="at-least-once",
        state_dir=place.state,
        loglevel="WARNING",
    )
    transactions = application.topic(place.transactions, key_deserializer="str", value_deserializer="json")
    output = application.topic(place.scored, key_serializer="str", value_serializer="json")
    stream = application.dataframe(transactions)
    stream = stream.apply(of_account, stateful=True)
    stream = stream.group_by("merchant_id")
    stream = stream.apply(of_merchant, stateful=True)
    stream = stream.apply(scored)
    stream.to_topic(output, key=lambda message: message["account_id"])
    application.run()


def transaction_of(message: Message) -> Transaction:
    """The transaction of a decoded message."""
    return Transaction(
        message["transaction_id"],
        message["account_id"],
        message["merchant_id"],
        round(message["amount"] * 100),
        microseconds(datetime.fromisoformat(message["timestamp"])),
        message["transaction_type"],
        message["location"],
        message["device_id"],
    )


if __name__ == "__main__":
    main()
