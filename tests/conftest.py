"""Fixtures for tests that need a broker: one real Apache Kafka a test run, and topics of a test's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flows.kafka_install import available
from flows.local_kafka import LocalKafka, free_port


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A real broker that tests share, started for the first of them; who wants to stop one starts its own."""
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
