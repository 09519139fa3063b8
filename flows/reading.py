"""Partitions read once, to where they end: committed records only, and never counted by offsets, which have gaps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from features.errors import KafkaFailure
from flows import topics
from flows.lanes import PartitionId
from flows.settings import GROUP, Settings

_log = logging.getLogger(__name__)


def records(settings: Settings, starts: Mapping[PartitionId, int], ends: dict[PartitionId, int]) -> Iterator[Message]:
    """The committed records of partitions, each from an offset up to its end, which is then noted in ``ends``.

    Raises ``KafkaFailure`` where Kafka does not give them.
    """
    consumer = Consumer(
        {
            "group.id": f"{GROUP}-tail",
            "fetch.wait.max.ms": "20",
            **settings.kafka,
            "isolation.level": "read_committed",
            # As fast as it goes, however the flow's own reading is paced: it waits for this.
            "queued.min.messages": "100000",
            "fetch.queue.backoff.ms": "0",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "earliest",  # what Kafka has deleted since cannot be read back
            "logger": _log,
        }
    )
    try:
        # A leader that was elected just now knows less at first: what ends before this does not end yet.
        known = {key: topics.edges(consumer, *key, settings)[1] for key in starts}
        consumer.assign([TopicPartition(*key, start) for key, start in starts.items()])
        while len(ends) < len(starts):
            message = consumer.poll(settings.patience)
            if message is None:
                raise KafkaFailure(f"Kafka does not give the ends of {sorted(set(starts) - set(ends))}; try again")
            key, error = (str(message.topic()), message.partition() or 0), message.error()
            if error is None and key not in ends:
                yield message
            elif error is not None and error.code() == KafkaError._PARTITION_EOF:
                if (message.offset() or 0) >= known[key]:
                    ends[key] = message.offset() or 0
            elif error is not None:
                raise KafkaFailure(f"{key[0]}[{key[1]}] cannot be read back: {error.str()}")
    finally:
        consumer.close()


def headers_of(message: Message) -> dict[str, str]:
    """A record's headers as text."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {str(name): text.decode() if isinstance(text, bytes) else str(text) for name, text in pairs}
