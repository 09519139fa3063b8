"""Commits: whole, once, in order; what stops them; and who may write."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaException, Producer

from features.errors import KafkaFailure
from flows import outbox
from flows.invocation import Invocation
from flows.local_kafka import LocalKafka, free_port
from flows.mock_kafka import MockKafka
from flows.outbox import Outbox, Parcel, open_outbox
from flows.records import Outgoing
from flows.settings import Settings
from tests.flows.running import Inbox, limit_size

Topics = Callable[[str, int], str]


def settings(kafka: LocalKafka, **changes: str) -> Settings:
    return Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, **changes})


def opened(kafka: LocalKafka, name: str | None = None, **changes: str) -> Outbox:
    return Outbox(settings(kafka, **changes).kafka, name or uuid.uuid4().hex, 30.0)


def parcel(topic: str, value: str | bytes, partition: int = 0) -> Parcel:
    return Parcel(topic, partition, [Outgoing(b"k", value.encode() if isinstance(value, str) else value, {})])


def values_in(kafka: LocalKafka, topic: str) -> list[bytes | None]:
    inbox = Inbox(kafka.bootstrap_servers, topic)
    found = inbox.read_to_end()
    inbox.close()
    return [record.value for record in found]


def test_all_that_was_settled_is_there_once_in_order(kafka: LocalKafka, topics: Topics) -> None:
    scored, alerts, box = topics("scored", 1), topics("alerts", 1), opened(kafka)
    numbers = [str(n).encode() for n in range(3000)]
    for start in range(0, 3000, 7):
        box.put([parcel(topic, value) for value in numbers[start : start + 7] for topic in (scored, alerts)])
    box.settle()
    assert values_in(kafka, scored) == values_in(kafka, alerts) == numbers
    assert box.end(scored, 0) >= 3000
    assert box.end(scored, 1) == 0


def test_a_name_taken_over_writes_no_more(kafka: LocalKafka, topics: Topics) -> None:
    topic, name = topics("scored", 1), uuid.uuid4().hex
    zombie = opened(kafka, name)
    zombie.put([parcel(topic, "before")])
    zombie.settle()
    heir = opened(kafka, name)
    heir.put([parcel(topic, "after")])
    heir.settle()
    zombie.put([parcel(topic, "too late")])
    with pytest.raises(KafkaFailure, match=f"another process has taken over as {name}"):
        zombie.settle()
    with pytest.raises(KafkaFailure, match="another process has taken over"):
        zombie.put([])
    heir.put([parcel(topic, "last")])
    heir.settle()
    assert values_in(kafka, topic) == [b"before", b"after", b"last"]


def test_what_was_begun_and_not_committed_is_gone_when_the_name_is_taken_over(
    kafka: LocalKafka, topics: Topics
) -> None:
    topic, name = topics("scored", 1), uuid.uuid4().hex
    zombie = outbox._transactional(settings(kafka).kafka, name)
    zombie.init_transactions(30)
    zombie.begin_transaction()
    zombie.produce(topic, b"in the log, not committed", partition=0)
    assert zombie.flush(10) == 0
    heir = opened(kafka, name)
    # From here on the end of the topic is certain: what is there now is all that the zombie will ever have written.
    assert values_in(kafka, topic) == []
    zombie.produce(topic, b"on its way", partition=0)
    with pytest.raises(KafkaException, match="_FENCED"):
        zombie.commit_transaction(10)
    heir.put([parcel(topic, "after")])
    heir.settle()
    assert values_in(kafka, topic) == [b"after"]


def test_a_flow_with_fewer_processes_fences_those_that_have_no_successor(kafka: LocalKafka, topics: Topics) -> None:
    chosen = settings(kafka, VIGIE_SCORED_TOPIC=topics("scored", 1))
    three = [open_outbox(chosen, Invocation(None, index, 3, str(index)), 3) for index in range(3)]
    open_outbox(chosen, Invocation(None, 0, 1, "0"), 3)  # process 0 knows how many there ever were
    for box in three:
        box.put([parcel(chosen.scored_topic, "late")])
        with pytest.raises(KafkaFailure, match="another process has taken over"):
            box.settle()
    assert values_in(kafka, chosen.scored_topic) == []


def test_flows_of_other_topics_do_not_fence_each_other(kafka: LocalKafka, topics: Topics) -> None:
    place = Invocation(None, 0, 1, "0")
    boxes = [open_outbox(settings(kafka, VIGIE_SCORED_TOPIC=name), place, 1) for name in ("one", "other")]
    topic = topics("scored", 1)
    for box in boxes:
        box.put([parcel(topic, "v")])
        box.settle()
    assert values_in(kafka, topic) == [b"v", b"v"]


def test_a_record_that_the_topic_does_not_take_stops_it_by_name(kafka: LocalKafka, topics: Topics) -> None:
    topic, box = topics("scored", 2), opened(kafka)
    limit_size(kafka.bootstrap_servers, topic, 2000)
    box.put([parcel(topic, "small", 0), parcel(topic, os.urandom(3000), 1)])
    with pytest.raises(KafkaFailure, match=rf"{topic}\[1\] did not take a record: .*too large.*the flow stops"):
        box.settle()
    assert values_in(kafka, topic) == []  # a commit is there whole or not at all
    box = opened(kafka)
    box.put([parcel(topic, b"x" * 11_000_000)])
    with pytest.raises(KafkaFailure, match=rf"{topic}\[0\] did not take a record: .*too large"):
        box.settle()


def test_a_topic_that_takes_little_takes_many_records_all_the_same(kafka: LocalKafka, topics: Topics) -> None:
    names = {f"VIGIE_{purpose}_TOPIC": topics(purpose.lower(), 1) for purpose in ("SCORED", "ALERTS", "REJECTED")}
    limit_size(kafka.bootstrap_servers, names["VIGIE_ALERTS_TOPIC"], 3000)
    box = open_outbox(settings(kafka, **names), Invocation(None, 0, 1, "0"), 1)
    values = [os.urandom(500) for _ in range(200)]
    box.put([parcel(names["VIGIE_ALERTS_TOPIC"], value) for value in values])
    box.settle()
    assert values_in(kafka, names["VIGIE_ALERTS_TOPIC"]) == values


def test_a_commit_that_kafka_gave_up_is_repeated(kafka: LocalKafka, topics: Topics) -> None:
    """As after an outage that was longer than the records' time to live."""
    topic = topics("scored", 1)
    box = opened(kafka)
    begin, failed = box._producer.begin_transaction, threading.Event()

    class Failing:
        """The producer, whose first commit fails in a way that passes."""

        def __getattr__(self, name: str) -> object:
            return getattr(producer, name)

        def begin_transaction(self) -> None:
            begin()

        def commit_transaction(self, timeout: float) -> None:
            if not failed.is_set():
                failed.set()
                producer.purge()  # what waits for delivery fails, as a time-out would make it fail
            producer.commit_transaction(timeout)

    producer = box._producer
    box._producer = Failing()  # type: ignore[assignment]  # stands in for the client
    box.put([parcel(topic, str(n)) for n in range(100)])
    box.settle()
    assert failed.is_set()
    assert values_in(kafka, topic) == [str(n).encode() for n in range(100)]


def test_it_waits_for_kafka_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 1.0)
    with MockKafka(["scored"]) as mock:
        chosen = Settings.from_environment(
            {
                "KAFKA_BOOTSTRAP_SERVERS": mock.bootstrap_servers,
                "KAFKA_MESSAGE_TIMEOUT_MS": "300",
                "KAFKA_TRANSACTION_TIMEOUT_MS": "1000",
            }
        )
        box = Outbox(chosen.kafka, "vigie-0", 10.0)
        box.put([parcel("scored", "v")])
        box.settle()
    box.put([parcel("scored", "never")])
    began = time.monotonic()
    with pytest.raises(KafkaFailure, match="the flow stops so that none is lost"):
        box.settle()
    assert time.monotonic() - began < 20


def test_no_more_waits_than_it_should(kafka: LocalKafka, topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PENDING", 10)
    topic, box = topics("scored", 1), opened(kafka, KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="20")
    for start in range(0, 200, 50):
        box.put([parcel(topic, str(n)) for n in range(start, start + 50)])
        assert len(box._pending) <= 50
    box.settle()
    assert values_in(kafka, topic) == [str(n).encode() for n in range(200)]


def test_nobody_there_is_said_in_time() -> None:
    nobody = {"bootstrap.servers": f"127.0.0.1:{free_port()}"}
    with pytest.raises(KafkaFailure, match=r"does not let this process write as vigie-0: .*VIGIE_KAFKA_TIMEOUT"):
        Outbox(nobody, "vigie-0", 0.5)


def test_nobody_can_switch_off_what_the_delivery_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []

    class Made(Producer):
        def __init__(self, properties: dict[str, object]) -> None:
            made.append(properties)

    monkeypatch.setattr(outbox, "Producer", Made)
    given = {"enable.idempotence": "false", "acks": "1", "transactional.id": "x", "linger.ms": "50", "client.id": "me"}
    outbox._transactional(given, "vigie-0")
    (properties,) = made
    assert (properties["enable.idempotence"], properties["acks"]) == ("true", "all")
    assert properties["transactional.id"] == "vigie-0"
    assert (properties["linger.ms"], properties["client.id"]) == ("50", "me")
