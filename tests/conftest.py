"""Fixtures for tests that need a broker: the one real Apache Kafka of a test run, and topics of a test's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from flows.broker import LocalKafka, available, free_port


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A real broker, started when the first test asks for it. Tests share it: one that stops it starts its own."""
    if reason := available():
        pytest.fail(f"this test needs a real Kafka, which cannot run here: {reason}")
    with LocalKafka(free_port(), tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def topics(kafka: LocalKafka) -> Callable[[str, int], str]:
    """``topics(purpose, partitions)`` creates a topic that no other test uses and returns its name."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})

    def create(purpose: str, partitions: int) -> str:
        name = f"{purpose}-{uuid.uuid4().hex[:12]}"
        admin.create_topics([NewTopic(name, partitions, 1)])[name].result(timeout=30)
        return name

    return create
