"""The hand-written loop: a batch from Kafka, the flow's own states in arrays, one call of the graph, a batch to Kafka.

No recovery, no commits, no check of anything, one process for ever: about what Python can do at most on one core.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer

from bench.peers.scoring import ANY_TIME, Place, Scorer
from features.definitions import DAY, Entity
from features.measures import own
from features.state import EntityStates, Plan
from features.transaction import EPOCH, MICROSECOND, parse_transaction
from flows.records import ScoredMessage, Transactions

BATCH = 1000
WAIT = 0.005  # seconds to wait for a batch to become full
LATENESS = DAY // MICROSECOND

_encode = msgspec.json.Encoder().encode


def main() -> None:
    """Runs until it is killed."""
    place = Place.from_environment()
    scorer = Scorer(place.model)
    features, version = scorer.bundle.features, scorer.bundle.manifest.version
    accounts, merchants = (Plan(features, entity) for entity in (Entity.ACCOUNT, Entity.MERCHANT))
    of_accounts, of_merchants = EntityStates(accounts), EntityStates(merchants)
    width, until = len(features), len(features) - len(merchants.features)
    since = until - len(accounts.features)
    reading = {"auto.offset.reset": "earliest", "enable.auto.commit": "false", "group.id": place.group}
    consumer = Consumer({"bootstrap.servers": place.bootstrap, **reading})
    consumer.subscribe([place.transactions])
    producer = Producer({"bootstrap.servers": place.bootstrap, "linger.ms": "2", "compression.type": "lz4"})
    while True:
        records = consumer.consume(BATCH, WAIT)
        if failed := [error for record in records if (error := record.error()) is not None]:
            raise SystemExit(f"reading failed: {failed[0].str()}")
        if records:
            of = Transactions.of([parse_transaction(record.value(), ANY_TIME) for record in records])
            rows = np.empty((len(of), width), np.float32)
            own(features, of.timestamp, of.amount, rows[:, :since])
            for states, keys, out in (
                (of_accounts, of.account_id, rows[:, since:until]),
                (of_merchants, of.merchant_id, rows[:, until:]),
            ):
                texts = [getattr(of, field) for field in states.plan.fields]
                states.take(keys, of.timestamp, of.amount, texts, out)
                states.forget(int(of.timestamp[-1]) - LATENESS)
            now = datetime.now(UTC)
            for i, (score, anomaly) in enumerate(scorer.scores(rows)):
                account, at = of.account_id[i], EPOCH + int(of.timestamp[i]) * MICROSECOND
                ids = of.transaction_id[i], account, of.merchant_id[i]
                amount, alert = int(of.amount[i]) / 100, score >= scorer.threshold
                scored = ScoredMessage(*ids, amount, at, score, anomaly, alert, version, now)
                producer.produce(place.scored, _encode(scored), account)
        producer.poll(0)


if __name__ == "__main__":
    main()
