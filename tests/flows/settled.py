"""Kafka confirms what is only about to be so: topics, commits. Here is how to wait until it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flows.local_kafka import ends

LONGEST: Final = 30.0  # seconds until a topic is there
ANSWER: Final = 10.0  # seconds that a leader may take
ABANDONED: Final = 2.0  # seconds after which a commit that has not ended is taken for that of a process that was killed


def create(
    bootstrap: str, *topics: str, partitions: int, config: Mapping[str, str] | None = None, timeout: float = LONGEST
) -> None:
    """Creates topics, and returns when each partition has a leader that answers.

    Kafka says that a topic is created as soon as its controller knows it; for a moment the broker does not list it, or
    lists it with no partitions.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    made = admin.create_topics([NewTopic(topic, partitions, 1, config=dict(config or {})) for topic in topics])
    for future in made.values():
        future.result(timeout)
    everywhere = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
    give_up = time.monotonic() + timeout
    while True:
        try:
            ends(admin, everywhere, timeout=ANSWER)
        except KafkaException:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
        else:
            return


def commits(bootstrap: str, topic: str) -> None:
    """Returns when readers of committed records see every commit that has been confirmed to a producer.

    A commit is confirmed before its marks are in the partitions, and until then they end before it.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    numbers = admin.list_topics(topic, timeout=LONGEST).topics[topic].partitions
    everywhere = [TopicPartition(topic, number) for number in numbers]
    give_up = time.monotonic() + ABANDONED
    while time.monotonic() < give_up:
        written = ends(admin, everywhere, timeout=ANSWER)
        shown = ends(admin, everywhere, IsolationLevel.READ_COMMITTED, timeout=ANSWER)
        if all(there >= end for there, end in zip(shown, written, strict=True)):
            return
        time.sleep(0.02)
