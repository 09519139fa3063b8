"""How far an earlier life had come, as a real Kafka knows it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from flows.handover import Committed, committed, offsets_at
from flows.local_kafka import LocalKafka
from flows.settings import Settings
from tests.flows.running import QUIET

MORNING = 1_522_540_800_000  # milliseconds


@pytest.fixture
def settings(kafka: LocalKafka, topics: Callable[[str, int], str]) -> Settings:
    """Two topics of two partitions, and a group of their own."""
    return Settings.from_environment(
        {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "KAFKA_GROUP_ID": uuid.uuid4().hex,
            "VIGIE_TRANSACTIONS_TOPIC": topics("transactions", 2),
            "VIGIE_LABELS_TOPIC": topics("labels", 2),
        }
    )


def commit(settings: Settings, *places: TopicPartition) -> None:
    consumer = Consumer({**settings.kafka, **QUIET})
    consumer.commit(offsets=list(places), asynchronous=False)
    consumer.close()


def test_offsets_and_the_oldest_time_that_the_commits_name(settings: Settings) -> None:
    topic, labels = settings.transactions_topic, settings.labels_topic
    assert committed(settings) == Committed({}, None)
    commit(settings, TopicPartition(topic, 1, 7, "2018-04-01T00:00:02Z"))
    commit(settings, TopicPartition(labels, 0, 3, "2018-04-01T00:00:00.5Z"))
    assert committed(settings) == Committed({(topic, 1): 7, (labels, 0): 3}, MORNING * 1000 + 500_000)


@pytest.mark.parametrize("metadata", ["", "a note of another program", "2018-04-01"])
def test_a_commit_that_names_no_time_leaves_it_open(settings: Settings, metadata: str) -> None:
    topic = settings.transactions_topic
    commit(settings, TopicPartition(topic, 0, 7, "2018-04-01T00:00:02Z"), TopicPartition(topic, 1, 7, metadata))
    assert committed(settings) == Committed({(topic, 0): 7, (topic, 1): 7}, None)


def test_the_first_record_of_a_time_or_the_next_one_to_come(settings: Settings) -> None:
    topic = settings.transactions_topic
    producer = Producer({**settings.kafka, **QUIET})
    for second in range(5):
        producer.produce(topic, b"{}", partition=0, timestamp=MORNING + second * 1000)
    assert producer.flush(30) == 0
    producer.close()
    at = {second: offsets_at(settings, [topic], (MORNING + second * 1000) * 1000)[topic] for second in (-9, 2, 9)}
    assert at == {-9: [0, 0], 2: [2, 0], 9: [5, 0]}
