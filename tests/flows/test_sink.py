"""The Kafka end where records leave: what is there after a snapshot, where it lies, and what is not written again."""

from __future__ import annotations

import json
import os
import random
import uuid
from collections import Counter
from collections.abc import Callable
from zlib import crc32

import msgspec
import pytest
from confluent_kafka import Producer

from flows.local_kafka import LocalKafka
from flows.outbox import Outbox
from flows.records import Outgoing
from flows.settings import Settings
from flows.sink import KafkaSink, Writer, Written
from flows.topics import largest_records
from tests.flows.running import QUIET, Inbox, Received, limit_size

Topics = Callable[[str, int], str]
HEADERS = {"error_code": "not_json", "error_message": "É"}


def settings(kafka: LocalKafka, **changes: str) -> Settings:
    return Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, **changes})


def open_box(chosen: Settings, *topics: str) -> Outbox:
    """An outbox that fences no other test's, and knows the limits of the topics."""
    return Outbox(chosen.kafka, uuid.uuid4().hex, 30.0, largest_records(chosen, topics) if topics else {})


def writers(chosen: Settings, topic: str, *, cut: bool = False) -> list[Writer]:
    kafka_sink = KafkaSink(chosen, topic, open_box(chosen, topic), cut=cut)
    return [kafka_sink.build_part("step", part, None) for part in kafka_sink.list_parts()]


def all_in(kafka: LocalKafka, topic: str) -> list[Received]:
    inbox = Inbox(kafka.bootstrap_servers, topic)
    found = inbox.read_to_end()
    inbox.close()
    return found


def test_after_a_snapshot_everything_is_there_once_in_order_as_it_was_given(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 3)
    written = writers(settings(kafka), topic)
    records = [Outgoing(f"é{n}".encode(), f"v{n}".encode(), HEADERS if n % 2 else {}) for n in range(3000)]
    records += [Outgoing(None, None, {}), Outgoing(b"", b"", HEADERS)]
    for number, writer in enumerate(written):
        writer.write_batch([records[number::3]])
    for writer in written:
        assert writer.snapshot().repeats == frozenset()
    found = all_in(kafka, topic)
    for number in range(3):
        of_partition = [Outgoing(r.key, r.value, r.headers) for r in found if r.partition == number]
        assert of_partition == records[number::3]


def test_partitions_are_in_order_and_those_that_any_producer_would_take(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 12)
    kafka_sink = KafkaSink(settings(kafka), topic, open_box(settings(kafka)))
    parts = kafka_sink.list_parts()
    assert parts == sorted(parts)
    assert [int(part) for part in parts] == list(range(12))

    keys = [*(f"account-{n}".encode() for n in range(300)), "é".encode(), b"0", b"\xff\x00"]
    ordinary = Producer({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    for key in keys:
        ordinary.produce(topic, b"", key)
    assert ordinary.flush(10) == 0
    taken = {r.key: r.partition for r in all_in(kafka, topic)}
    dealt = kafka_sink.by_partition([Outgoing(key, b"", {}) for key in keys])
    records = [(kafka_sink.part_fn(number), record) for number, records in dealt for record in records]
    assert taken == {record.key: number for number, record in records}
    assert len({number for number, _ in dealt}) == len(dealt), "all of a partition together"


def test_what_is_rejected_is_cut_where_the_topic_takes_no_more(kafka: LocalKafka, topics: Topics) -> None:
    """Or else one message of garbage would stop the flow at every start."""
    topic = topics("rejected", 1)
    (writer,) = writers(settings(kafka), topic, cut=True)
    values = [os.urandom(size) for size in (10, 999_900, 1_048_000, 1_048_500, 3_000_000)]
    writer.write_batch([[Outgoing(b"k", value, HEADERS) for value in values]])
    writer.write_batch([[Outgoing(None, None, HEADERS)]])
    writer.snapshot()
    *found, empty = all_in(kafka, topic)
    assert (empty.value, empty.headers) == (None, HEADERS)
    for record, value in zip(found, values, strict=True):
        assert record.value is not None
        assert value.startswith(record.value)
        if len(record.value) == len(value):
            assert record.headers == HEADERS
        else:
            assert len(record.value) > 1_000_000
            assert record.headers == HEADERS | {"value_cut_from_bytes": str(len(value))}
    assert [len(record.value or b"") == len(value) for record, value in zip(found, values, strict=True)] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_topic_that_takes_little_gets_little(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("rejected", 1)
    limit_size(kafka.bootstrap_servers, topic, 2000)
    (writer,) = writers(settings(kafka), topic, cut=True)
    rng = random.Random(1)
    for _ in range(20):
        headers = {"error_code": "not_json", "error_message": "é" * rng.randrange(300)}
        writer.write_batch([[Outgoing(rng.randbytes(rng.randrange(200)), rng.randbytes(rng.randrange(5000)), headers)]])
        writer.snapshot()
    assert Counter("value_cut_from_bytes" in r.headers for r in all_in(kafka, topic))[True] > 5


def test_even_a_key_that_is_too_large_is_cut(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("rejected", 1)
    limit_size(kafka.bootstrap_servers, topic, 3000)
    (writer,) = writers(settings(kafka), topic, cut=True)
    writer.write_batch([[Outgoing(os.urandom(5000), b"value", HEADERS)]])
    writer.snapshot()
    (record,) = all_in(kafka, topic)
    assert len(record.key or b"") > 2000
    assert record.value == b""
    assert record.headers == HEADERS | {"key_cut_from_bytes": "5000", "value_cut_from_bytes": "5"}


def test_an_alert_is_committed_with_its_score_or_not_at_all(kafka: LocalKafka, topics: Topics) -> None:
    scores, alerts = topics("scored", 2), topics("alerts", 3)
    kafka_sink = KafkaSink(settings(kafka), scores, open_box(settings(kafka)), [0, 0], alerts=alerts)
    first = kafka_sink.build_part("step", "00000", None)
    with_alert = [msgspec.structs.replace(scored(n), alert=b"alert %d" % n) for n in range(10)]
    first.write_batch([with_alert])
    first.snapshot()  # this state was never saved: a crash
    again = kafka_sink.build_part("step", "00000", None)
    # The second time the model may see it another way; what is committed stands.
    again.write_batch([[msgspec.structs.replace(scored(n), alert=b"another" if n % 2 else None) for n in range(10)]])
    again.snapshot()
    found = all_in(kafka, alerts)
    assert sorted(r.value or b"" for r in found) == sorted(r.alert or b"" for r in with_alert)
    assert {(r.key, r.partition) for r in found} == {(b"a", crc32(b"a") % 3)}
    assert len(all_in(kafka, scores)) == 10


def test_partitions_that_are_added_while_a_store_lives_get_nothing(kafka: LocalKafka, topics: Topics) -> None:
    """Or else what was written before a crash would be looked for where it is not."""
    kafka_sink = KafkaSink(settings(kafka), topics("scored", 5), open_box(settings(kafka)), [0, 0, 0])
    assert kafka_sink.list_parts() == ["00000", "00001", "00002"]


def scored(n: int) -> Outgoing:
    return Outgoing(b"a", json.dumps({"transaction_id": f"t{n}", "account_id": "a"}).encode(), {})


def rejected(offset: int) -> Outgoing:
    headers = {"source_topic": "transactions", "source_partition": "0", "source_offset": str(offset)}
    return Outgoing(b"k", b"garbage", headers)


@pytest.mark.parametrize("record", [scored, rejected])
def test_what_an_epoch_that_was_cut_short_had_written_is_not_written_again(
    kafka: LocalKafka, topics: Topics, record: Callable[[int], Outgoing]
) -> None:
    topic = topics("scored", 1)
    kafka_sink = KafkaSink(settings(kafka), topic, open_box(settings(kafka)), [0])
    first = kafka_sink.build_part("step", "00000", None)
    first.write_batch([[record(n) for n in range(10)]])
    saved = first.snapshot()
    assert saved == Written(10, frozenset())
    first.write_batch([[record(n) for n in range(10, 30)]])
    end = first.snapshot().until  # written, but this state was never saved: a crash
    assert end > 30  # there is a mark between the two commits

    second = kafka_sink.build_part("step", "00000", saved)
    second.write_batch([[record(n) for n in range(10, 15)]])  # an epoch that ends sooner than the one cut short
    saved = second.snapshot()
    assert saved.until >= end
    assert len(saved.repeats) == 15
    second.write_batch([[record(n) for n in range(15, 20)]])  # and a crash once more

    third = kafka_sink.build_part("step", "00000", saved)
    third.write_batch([[record(n) for n in range(15, 40)]])
    assert third.snapshot().repeats == frozenset()
    written = [(r.value, sorted(r.headers.items())) for r in all_in(kafka, topic)]
    assert written == [(record(n).value, sorted(record(n).headers.items())) for n in range(40)]


def test_without_a_saved_state_all_since_the_store_was_made_is_read_back(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 1)
    (foreign,) = writers(settings(kafka), topic)
    foreign.write_batch([[scored(n) for n in range(5)]])  # before the store was made: not this flow's
    begin = foreign.snapshot().until
    kafka_sink = KafkaSink(settings(kafka), topic, open_box(settings(kafka)), [begin])
    first = kafka_sink.build_part("step", "00000", None)
    first.write_batch([[scored(n) for n in range(5)]])
    first.snapshot()
    again = kafka_sink.build_part("step", "00000", None)
    again.write_batch([[scored(n) for n in range(8)]])
    assert again.snapshot().repeats == frozenset()
    assert Counter(r.json["transaction_id"] for r in all_in(kafka, topic)) == Counter(
        {f"t{n}": 2 if n < 5 else 1 for n in range(8)}
    )
