"""What a topic holds, as a reader sees it who is shown committed records only."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import itemgetter

from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.flows import settled
from tests.flows.running import QUIET, Received, text

COMMITTED = {
    "group.id": "chaos",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "fetch.wait.max.ms": 50,
    **QUIET,
}


def read(bootstrap: str, topic: str, timeout: float = 60.0, *, begin: int = 0) -> list[Received]:
    """All committed records, partition by partition and in the order of the log.

    ``begin``: offset 0, which must be there, or ``OFFSET_BEGINNING``: what Kafka has not deleted.

    They are read to the end and never counted by offsets: transactions leave gaps there.
    """
    settled.commits(bootstrap, topic)
    consumer = Consumer({"bootstrap.servers": bootstrap, "enable.partition.eof": True, **COMMITTED})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, begin) for number in partitions])
    reading = set(partitions)
    found: list[Received] = []
    give_up = time.monotonic() + timeout
    while reading:
        assert time.monotonic() < give_up, f"{topic}: the end of {sorted(reading)} does not come"
        for message in consumer.consume(10_000, 0.2):
            partition, offset, error = message.partition(), message.offset(), message.error()
            assert partition is not None
            assert offset is not None
            if error is None:
                headers = {str(header[0]): text(header[1]) for header in message.headers() or []}
                found.append(Received(message.key(), message.value(), headers, partition, offset))
            elif error.code() == KafkaError._PARTITION_EOF:
                reading.discard(partition)
    consumer.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))


class Watch(threading.Thread):
    """Reads output topics along as they grow, to know how many records there are and when the newest ones came."""

    def __init__(self, bootstrap: str, topics: Mapping[str, str], purposes: Sequence[str]) -> None:
        super().__init__(name="watch", daemon=True)
        self._consumer = Consumer({"bootstrap.servers": bootstrap, **COMMITTED})
        self._purposes = {topics[purpose]: purpose for purpose in purposes}
        metadata = self._consumer.list_topics(timeout=30).topics
        self._consumer.assign(
            [TopicPartition(topic, number, 0) for topic in self._purposes for number in metadata[topic].partitions]
        )
        self._stopping = threading.Event()
        self.counts = dict.fromkeys(purposes, 0)
        self.came: list[tuple[float, float]] = []  # of each scored record: when it was written, when it was readable

    def run(self) -> None:
        """The thread."""
        while not self._stopping.is_set():
            for message in self._consumer.consume(1000, 0.02):
                topic = message.topic()
                if message.error() is None and topic is not None:
                    purpose = self._purposes[topic]
                    self.counts[purpose] += 1
                    if purpose == "scored":
                        self.came.append((message.timestamp()[1] / 1000, time.time()))
        self._consumer.close()

    def stop(self) -> None:
        """Reads no more."""
        self._stopping.set()

    def finish(self) -> None:
        """Reads no more; returns when it has left Kafka."""
        self.stop()
        self.join()

    def first_after(self, moment: float) -> float | None:
        """When the first scored record was readable that was written after the moment (of ``time.time``)."""
        for written, readable in self.came[bisect_right(self.came, moment, key=itemgetter(1)) :]:
            if written > moment:
                return readable
        return None
