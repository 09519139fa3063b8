"""New topics, of which everything can be asked at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

LONGEST: Final = 30.0  # seconds until a topic is there


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
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    ends = {TopicPartition(topic, number): latest for topic in topics for number in range(partitions)}
    give_up = time.monotonic() + timeout
    while True:
        try:
            for end in admin.list_offsets(ends, request_timeout=5).values():
                end.result()
        except KafkaException:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
        else:
            return
