"""What a poll of the consumer gives: records in runs, each of one partition, and what Kafka says of its state."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from confluent_kafka import KafkaError, Message

from features.errors import KafkaFailure
from flows.lanes import PartitionId

_log = logging.getLogger(__name__)

# What passes by itself: the client goes on trying.
_PASSING: Final = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}
)


def runs(messages: Sequence[Message]) -> Iterator[tuple[PartitionId, list[Message]]]:
    """What came of one partition after the other."""
    for number, of_number in groupby(messages, Message.partition):
        for topic, run in groupby(of_number, Message.topic):
            yield (topic or "", number or 0), list(run)


def raise_unless_passing(error: KafkaError, topic: str, number: int) -> None:
    """Raises ``KafkaFailure`` but for what the client gets over, which is logged."""
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise KafkaFailure(
            f"{topic}[{number}] no longer holds the offset to read next ({error.str()}), so records would be skipped; "
            "start again, which says what is missing and what can be done"
        )
    if error.fatal() or error.code() not in _PASSING:
        raise KafkaFailure(f"reading {topic}[{number}] failed: {error.str()}")
    _log.warning("Kafka: %s", error.str())
