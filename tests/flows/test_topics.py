"""Kafka as it is found at the start: topics there, missing or forbidden; nobody at the door."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from features.errors import InvalidSetting, KafkaFailure
from flows import topics as module
from flows.local_kafka import LocalKafka, free_port
from flows.settings import Settings
from tests.flows.running import QUIET

Topics = Callable[[str, int], str]


def settings(kafka: LocalKafka, **changes: str) -> Settings:
    return Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, **changes})


def new(purpose: str) -> str:
    return f"{purpose}-{uuid.uuid4().hex[:8]}"


def test_partitions_of_topics_that_are_there(kafka: LocalKafka, topics: Topics) -> None:
    one, three = topics("one", 1), topics("three", 3)
    assert module.partitions(settings(kafka), [three, one]) == {three: 3, one: 1}


def test_missing_topics_are_created_with_the_partitions_that_are_set(kafka: LocalKafka, topics: Topics) -> None:
    there, missing, missing_too = topics("there", 2), new("missing"), new("missing")
    chosen = settings(kafka, VIGIE_TOPIC_PARTITIONS="5")
    assert module.partitions(chosen, [missing, there, missing_too]) == {missing: 5, there: 2, missing_too: 5}
    assert module.partitions(settings(kafka), [missing]) == {missing: 5}


def test_workers_that_start_at_the_same_moment_may_all_create_the_topic(kafka: LocalKafka) -> None:
    missing, chosen = new("missing"), settings(kafka)
    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(module.partitions, chosen, [missing]) for _ in range(4)]]
    assert found == [{missing: 4}] * 4


def test_missing_topics_are_named_where_they_may_not_be_created(kafka: LocalKafka, topics: Topics) -> None:
    there, missing, missing_too = topics("there", 2), new("missing"), new("missing")
    with pytest.raises(KafkaFailure) as raised:
        module.partitions(settings(kafka, VIGIE_CREATE_TOPICS="false"), [missing, there, missing_too])
    message = str(raised.value)
    assert f"no topic {missing}, {missing_too} at {kafka.bootstrap_servers}" in message
    assert "VIGIE_CREATE_TOPICS=true" in message
    assert there not in message
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    assert missing not in admin.list_topics(timeout=10).topics


def test_a_name_that_kafka_refuses_is_named(kafka: LocalKafka) -> None:
    with pytest.raises(KafkaFailure, match="topic no/slashes cannot be created"):
        module.partitions(settings(kafka), ["no/slashes"])


def test_no_kafka_is_said_in_time_with_what_to_do() -> None:
    port = free_port()
    nobody = Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}", "VIGIE_KAFKA_TIMEOUT": "0.5s"})
    began = time.monotonic()
    with pytest.raises(KafkaFailure, match=rf"no Kafka at 127\.0\.0\.1:{port} within 0\.5 s") as raised:
        module.partitions(nobody, ["any"])
    assert time.monotonic() - began < 5
    for remedy in ("just kafka", "KAFKA_BOOTSTRAP_SERVERS", "VIGIE_KAFKA_TIMEOUT"):
        assert remedy in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("KAFKA_HEAP_OPTS", "-Xmx1g", "heap.opts"), ("KAFKA_SECURITY_PROTOCOL", "carrier-pigeon", "carrier-pigeon")],
)
def test_a_property_that_the_client_refuses_is_named(kafka: LocalKafka, variable: str, value: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"(?s){said}.*KAFKA_X_Y"):
        module.partitions(settings(kafka, **{variable: value}), ["any"])


def test_edges(kafka: LocalKafka, topics: Topics) -> None:
    topic, chosen = topics("ledger", 2), settings(kafka)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    for number in range(10):
        producer.produce(topic, str(number), partition=0)
    assert producer.flush(10) == 0
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    admin.delete_records([TopicPartition(topic, 0, 4)])[TopicPartition(topic, 0)].result(timeout=10)

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test", **QUIET})
    assert module.edges(consumer, topic, 0, chosen) == (4, 10)
    assert module.edges(consumer, topic, 1, chosen) == (0, 0)
    impatient = settings(kafka, VIGIE_KAFKA_TIMEOUT="0.2s")
    with pytest.raises(KafkaFailure, match=rf"{topic}\[7\] does not tell its offsets"):
        module.edges(consumer, topic, 7, impatient)
    consumer.close()


def test_a_rejected_topic_that_is_created_takes_more_than_the_others_give(kafka: LocalKafka) -> None:
    chosen = settings(kafka, VIGIE_REJECTED_TOPIC=new("rejected"), VIGIE_TRANSACTIONS_TOPIC=new("transactions"))
    module.partitions(chosen, [chosen.transactions_topic, chosen.rejected_topic])
    names = [chosen.transactions_topic, chosen.rejected_topic]
    given, rejected = module.largest_records(chosen, names).values()
    assert given == module.DEFAULT_LARGEST
    assert rejected > given + 10_000
