"""The Kafka end where records leave: what is there after a snapshot, where it lies, and what stops the flow."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from features.errors import KafkaFailure
from flows import sink
from flows.local_kafka import LocalKafka, free_port
from flows.records import Outgoing
from flows.settings import Settings
from flows.sink import KafkaSink, Writer, Written
from tests.flows.running import QUIET, Inbox, Received, limit_size

Topics = Callable[[str, int], str]
HEADERS = {"error_code": "not_json", "error_message": "É"}


@pytest.fixture(autouse=True)
def producers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has producers of its own, and leaves none."""
    own: dict[frozenset[tuple[str, str]], Producer] = {}
    monkeypatch.setattr(sink, "_producers", own)
    yield
    for producer in own.values():
        producer.purge()
        producer.close()


def settings(kafka: LocalKafka, **changes: str) -> Settings:
    return Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, **changes})


def writers(chosen: Settings, topic: str, *, cut: bool = False) -> list[Writer]:
    kafka_sink = KafkaSink(chosen, topic, cut=cut)
    return [kafka_sink.build_part("step", part, None) for part in kafka_sink.list_parts()]


def all_in(kafka: LocalKafka, topic: str) -> list[Received]:
    inbox = Inbox(kafka.bootstrap_servers, topic)
    size, give_up = inbox.size(), time.monotonic() + 20
    while len(inbox.received) < size and time.monotonic() < give_up:
        inbox.read(0.1)
    inbox.close()
    assert len(inbox.received) == size
    return inbox.received


def test_after_a_snapshot_everything_is_there_once_in_order_as_it_was_given(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 3)
    written = writers(settings(kafka), topic)
    records = [Outgoing(f"é{n}".encode(), f"v{n}".encode(), HEADERS if n % 2 else {}) for n in range(3000)]
    records += [Outgoing(None, None, {}), Outgoing(b"", b"", HEADERS)]
    for number, writer in enumerate(written):
        writer.write_batch(records[number::3])
    for writer in written:
        assert writer.snapshot().repeats == frozenset()
    found = all_in(kafka, topic)
    for number in range(3):
        of_partition = [Outgoing(r.key, r.value, r.headers) for r in found if r.partition == number]
        assert of_partition == records[number::3]


def test_closing_writes_what_came_after_the_last_epoch(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 1)
    (writer,) = writers(settings(kafka, KAFKA_LINGER_MS="1000"), topic)
    writer.write_batch([Outgoing(b"k", b"v", {})])
    writer.close()
    assert len(all_in(kafka, topic)) == 1


def test_a_full_queue_is_waited_for(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 1)
    (writer,) = writers(settings(kafka, KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="20"), topic)
    writer.write_batch([Outgoing(b"k", str(n).encode(), {}) for n in range(1000)])
    writer.snapshot()
    assert [r.value for r in all_in(kafka, topic)] == [str(n).encode() for n in range(1000)]


def test_partitions_are_in_order_and_those_that_any_producer_would_take(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 12)
    kafka_sink = KafkaSink(settings(kafka), topic)
    parts = kafka_sink.list_parts()
    assert parts == sorted(parts)
    assert [int(part) for part in parts] == list(range(12))

    keys = [f"account-{n}" for n in range(300)] + ["é", "0"]
    ordinary = Producer({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    for key in keys:
        ordinary.produce(topic, b"", key)
    assert ordinary.flush(10) == 0
    taken = {(r.key or b"").decode(): r.partition for r in all_in(kafka, topic)}
    # Bytewax takes the remainder of what part_fn gives.
    assert taken == {key: kafka_sink.part_fn(key) % 12 for key in keys}


def test_writers_of_one_process_share_a_producer(kafka: LocalKafka, topics: Topics) -> None:
    chosen = settings(kafka)
    for topic in (topics("scored", 2), topics("alerts", 2)):
        writers(chosen, topic)
    assert len(sink._producers) == 1


def test_nobody_can_switch_off_what_the_delivery_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []
    monkeypatch.setattr(sink, "Producer", made.append)
    settings = Settings.from_environment(
        {"KAFKA_ENABLE_IDEMPOTENCE": "false", "KAFKA_ACKS": "1", "KAFKA_LINGER_MS": "50", "KAFKA_CLIENT_ID": "me"}
    )
    sink.producer(settings.kafka)
    sink._producers.clear()
    (properties,) = made
    assert (properties["enable.idempotence"], properties["acks"]) == ("true", "all")
    assert (properties["linger.ms"], properties["client.id"]) == ("50", "me")


def nobody() -> Settings:
    """A broker that is not there, and little patience."""
    return Settings.from_environment(
        {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}", "KAFKA_MESSAGE_TIMEOUT_MS": "300"}
    )


def test_a_failed_delivery_is_raised_and_says_so() -> None:
    writer = Writer(sink.producer(nobody().kafka), "scored", 7)
    writer.write_batch([Outgoing(b"k", b"v", {})])
    began = time.monotonic()
    with pytest.raises(KafkaFailure, match=r"scored\[7\] did not take a record: .*timed out.*the flow stops"):
        writer.snapshot()
    assert time.monotonic() - began < 10
    # It is not forgotten either.
    with pytest.raises(KafkaFailure):
        writer.snapshot()
    with pytest.raises(KafkaFailure):
        writer.write_batch([])


def test_closing_after_a_failure_raises_no_second_one_but_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Bytewax closes partitions while it unwinds, and a second error would abort the process without a word."""
    writer = Writer(sink.producer(nobody().kafka), "scored", 7)
    writer.write_batch([Outgoing(b"k", b"v", {})])
    writer.close()
    errors = [record.getMessage() for record in caplog.records if record.name == "flows.sink"]
    assert any("scored[7] did not take a record" in error for error in errors)


def test_a_failed_delivery_is_raised_while_the_queue_is_full() -> None:
    chosen = nobody()
    full = Settings.from_environment(
        {
            "KAFKA_BOOTSTRAP_SERVERS": chosen.bootstrap,
            "KAFKA_MESSAGE_TIMEOUT_MS": "300",
            "KAFKA_QUEUE_BUFFERING_MAX_MESSAGES": "5",
        }
    )
    writer = Writer(sink.producer(full.kafka), "scored", 0)
    with pytest.raises(KafkaFailure, match=r"scored\[0\] did not take a record"):
        writer.write_batch([Outgoing(b"k", b"v", {}) for _ in range(50)])


def test_a_record_that_the_topic_does_not_take_is_raised(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 1)
    (writer,) = writers(settings(kafka), topic)
    writer.write_batch([Outgoing(b"k", os.urandom(1_100_000), {})])
    with pytest.raises(KafkaFailure, match="too large"):
        writer.snapshot()
    (another,) = writers(settings(kafka), topic)
    with pytest.raises(KafkaFailure, match="too large"):
        another.write_batch([Outgoing(b"k", b"x" * 11_000_000, {})])


def test_what_is_rejected_is_cut_where_the_topic_takes_no_more(kafka: LocalKafka, topics: Topics) -> None:
    """Or else one message of garbage would stop the flow at every start."""
    topic = topics("rejected", 1)
    (writer,) = writers(settings(kafka), topic, cut=True)
    values = [os.urandom(size) for size in (10, 999_900, 1_048_000, 1_048_500, 3_000_000)]
    writer.write_batch([Outgoing(b"k", value, HEADERS) for value in values])
    writer.write_batch([Outgoing(None, None, HEADERS)])
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
        writer.write_batch([Outgoing(rng.randbytes(rng.randrange(200)), rng.randbytes(rng.randrange(5000)), headers)])
        writer.snapshot()
    assert Counter("value_cut_from_bytes" in r.headers for r in all_in(kafka, topic))[True] > 5


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
    kafka_sink = KafkaSink(settings(kafka), topic, {topic: [0]})
    first = kafka_sink.build_part("step", "00000", None)
    first.write_batch([record(n) for n in range(10)])
    saved = first.snapshot()
    assert saved == Written(10, frozenset())
    first.write_batch([record(n) for n in range(10, 30)])
    first.snapshot()  # written, but this state was never saved: a crash

    second = kafka_sink.build_part("step", "00000", saved)
    second.write_batch([record(n) for n in range(10, 15)])  # an epoch that ends sooner than the one cut short
    saved = second.snapshot()
    assert saved.until == 30
    assert len(saved.repeats) == 15
    second.write_batch([record(n) for n in range(15, 20)])  # and a crash once more

    third = kafka_sink.build_part("step", "00000", saved)
    third.write_batch([record(n) for n in range(15, 40)])
    assert third.snapshot() == Written(40, frozenset())
    written = [(r.value, sorted(r.headers.items())) for r in all_in(kafka, topic)]
    assert written == [(record(n).value, sorted(record(n).headers.items())) for n in range(40)]


def test_without_a_saved_state_all_since_the_store_was_made_is_read_back(kafka: LocalKafka, topics: Topics) -> None:
    topic = topics("scored", 1)
    foreign = KafkaSink(settings(kafka), topic).build_part("step", "00000", None)
    foreign.write_batch([scored(n) for n in range(5)])  # before the store was made: not this flow's
    foreign.snapshot()
    kafka_sink = KafkaSink(settings(kafka), topic, {topic: [5]})
    kafka_sink.build_part("step", "00000", None).write_batch([scored(n) for n in range(5)])
    sink.producer(settings(kafka).kafka).flush(10)
    again = kafka_sink.build_part("step", "00000", None)
    again.write_batch([scored(n) for n in range(8)])
    assert again.snapshot() == Written(13, frozenset())
