"""The way that most projects ship: one message, one row of a DataFrame, ``predict_proba``, one message.

Written as a tutorial would write it, with nothing slow put in: clients and booster are made once, nothing is printed or
flushed for each message. The booster and its calibration lie beside the bundle (``bench.speed_model``).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pandas as pd  # type: ignore[import-untyped]  # it ships no types
from confluent_kafka import Consumer, Producer
from xgboost import XGBClassifier

from bench.peers.features import PeerFeatures
from bench.peers.scoring import Place, fields
from bench.peers.state import EntityState
from features.bundle import load
from features.definitions import Entity
from features.transaction import Transaction, microseconds


def main() -> None:
    """Runs until it is killed."""
    place = Place.from_environment()
    bundle = load(place.model)
    names, threshold = bundle.manifest.features, bundle.manifest.threshold
    model = XGBClassifier()
    model.load_model(place.model / "booster.json")
    # Two threads gain nothing on one row, and spin for each other: with one of two cores busy, 39 scores a second, not
    # 160.
    model.set_params(n_jobs=1)
    calibration = json.loads((place.model / "calibration.json").read_text())
    features = PeerFeatures(bundle.features)
    accounts: dict[str, EntityState] = defaultdict(lambda: features.new(Entity.ACCOUNT))
    merchants: dict[str, EntityState] = defaultdict(lambda: features.new(Entity.MERCHANT))
    consumer = Consumer(
        {"bootstrap.servers": place.bootstrap, "group.id": place.group, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([place.transactions])
    producer = Producer({"bootstrap.servers": place.bootstrap})
    while True:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if (error := record.error()) is not None:
            raise SystemExit(f"reading failed: {error.str()}")
        transaction = transaction_of(json.loads(record.value() or b""))
        values = features.of_account(accounts[transaction.account_id], transaction)
        values += features.of_merchant(merchants[transaction.merchant_id], transaction)
        row = pd.DataFrame([dict(zip(names, values, strict=True))])
        probability = float(model.predict_proba(row)[0, 1])
        score = calibrated(probability, calibration["slope"], calibration["intercept"])
        scored = fields(transaction, score, None, threshold, bundle.manifest.version)
        producer.produce(place.scored, json.dumps(scored), transaction.account_id)
        producer.poll(0)


def transaction_of(message: dict[str, str]) -> Transaction:
    """The transaction of a decoded message."""
    return Transaction(
        message["transaction_id"],
        message["account_id"],
        message["merchant_id"],
        round(float(message["amount"]) * 100),
        microseconds(pd.Timestamp(message["timestamp"]).to_pydatetime()),
        message["transaction_type"],
        message["location"],
        message["device_id"],
    )


def calibrated(probability: float, slope: float, intercept: float) -> float:
    """A probability by the booster as the bundle's graph calibrates its margin."""
    if not 0 < probability < 1:
        return probability
    margin = math.log(probability / (1 - probability))
    return 1 / (1 + math.exp(-(slope * margin + intercept)))


if __name__ == "__main__":
    main()
