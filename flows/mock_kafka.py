"""librdkafka's mock cluster as a Kafka to work with where there is no Java.

It lives in this process and in memory; it carries messages but has no real transactions, so it proves nothing about
delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from confluent_kafka import Producer


class MockKafka:
    """librdkafka's mock cluster: a broker without Java, inside this process, for other processes too.

    Everything is lost when it is closed. Topics have four partitions and come into being when a producer or
    ``topics`` names them; AdminClient.create_topics is not answered. Consumer groups wait three seconds for
    their members.
    """

    def __init__(self, topics: Sequence[str] = ()) -> None:
        self.topics = tuple(topics)
        self.bootstrap_servers = ""
        self._client: Producer | None = None

    def __enter__(self) -> Self:
        self._client = Producer({"test.mock.num.brokers": 1, "log_level": 4})
        brokers = self._client.list_topics(timeout=10).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        for topic in self.topics:
            self._client.list_topics(topic, timeout=10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
