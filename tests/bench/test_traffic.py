"""The traffic of the speed benchmark: the same each time, and such that all contenders can agree on its scores."""

from __future__ import annotations

from zlib import crc32

import msgspec
import numpy as np

from bench.traffic import FAVOURITES, Traffic, number_of
from features.history import OPTIONAL, REQUIRED
from features.transaction import microseconds, parse_transaction

FOREVER = 1 << 62


def test_it_is_the_same_each_time_and_begins_alike_whatever_its_length() -> None:
    traffic = Traffic(300)
    records = list(traffic.records(2000))
    assert records == list(Traffic(300).records(2000))
    assert records[:700] == list(traffic.records(700))
    assert records[700:] == list(traffic.records(2000, 700))
    assert records != list(Traffic(300, seed=8).records(2000))


def test_an_entity_has_one_partition_and_one_event_at_an_instant() -> None:
    records = list(Traffic(200).records(3000))
    transactions = [parse_transaction(record.value, FOREVER) for record in records]
    for entity in ("account_id", "merchant_id"):
        places = {(getattr(t, entity), r.partition) for t, r in zip(transactions, records, strict=True)}
        assert len(places) == len({name for name, _ in places}), entity
    instants = [t.timestamp for t in transactions]
    assert instants == sorted(set(instants))
    assert all(record.partition == crc32(record.key) % 4 for record in records), "where Kafka's client would put it"
    assert {record.partition for record in records} == {0, 1, 2, 3}


def test_all_accounts_are_live_after_a_transaction_each() -> None:
    drawn = Traffic(500).draw(5000)
    assert len(np.unique(drawn.account[:500])) == 500
    habits = {(a, m) for a, m in zip(drawn.account.tolist(), drawn.merchant.tolist(), strict=True)}
    assert len(habits) <= 500 * FAVOURITES


def test_the_history_has_what_the_messages_say() -> None:
    traffic = Traffic(50)
    history = traffic.history(200)
    assert set(history.columns) <= {*REQUIRED, *OPTIONAL}
    for row, record in zip(history.iter_rows(named=True), traffic.records(200), strict=True):
        transaction = parse_transaction(record.value, FOREVER)
        assert {name: row[name] for name in msgspec.structs.asdict(transaction)} | {"timestamp": 0} == {
            **msgspec.structs.asdict(transaction),
            "timestamp": 0,
        }
        assert microseconds(row["timestamp"]) == transaction.timestamp
    assert number_of(history["transaction_id"][199]) == 199


def test_live_transactions_happen_when_they_are_told_to() -> None:
    (record,) = Traffic(50).records(11, 10, lambda nth: 1_700_000_000_000_000 + nth)
    assert parse_transaction(record.value, FOREVER).timestamp == 1_700_000_000_000_010
