"""How far an earlier life of the flow has come, as Kafka knows it: the offsets that its consumer group has committed.

They lag behind: what is committed is what was durable an epoch ago. So each commit also says when its position was
taken; what the flow has written since then may be the work of records beyond the position.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from features.errors import KafkaFailure
from flows import topics
from flows.lanes import PartitionId
from flows.settings import GROUP, Settings, instant

CLOCKS_APART: Final = 60_000_000  # microseconds that the clocks of producers and brokers may be apart

_log = logging.getLogger(__name__)


class Committed(NamedTuple):
    """What the flow's consumer group has committed.

    ``offsets``: of each partition of the transactions and labels topics with a commit, the next record. ``at``: when
    that position was taken (of several, the oldest), in microseconds since 1970; None where a commit does not say.
    """

    offsets: dict[PartitionId, int]
    at: int | None


def committed(settings: Settings) -> Committed:
    """What the group has committed; no offsets where it has never committed any. Raises ``KafkaFailure``."""
    wanted = _partitions(settings, [settings.transactions_topic, settings.labels_topic])
    found = _ask(settings, "committed offsets", lambda consumer, patience: consumer.committed(wanted, patience))
    offsets = {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}
    times = [_instant(p.metadata) for p in found if p.offset >= 0]
    at = min((time for time in times if time is not None), default=None)
    return Committed(offsets, None if None in times else at)


def offsets_at(settings: Settings, names: Iterable[str], since: int) -> dict[str, list[int]]:
    """Of each partition of the topics the first record with that Kafka timestamp (microseconds) or a later one.

    Where there is none: the next offset. Raises ``KafkaFailure``.
    """
    names = list(names)
    wanted = [
        TopicPartition(place.topic, place.partition, max(0, since) // 1000) for place in _partitions(settings, names)
    ]
    found = _ask(settings, "offsets of a time", lambda consumer, patience: consumer.offsets_for_times(wanted, patience))
    ends = topics.ends(settings, names)
    offsets: dict[str, list[int]] = {topic: [] for topic in names}
    for place in found:
        end = ends[place.topic][place.partition]
        offsets[place.topic].append(place.offset if place.offset >= 0 else end)
    return offsets


def _partitions(settings: Settings, names: list[str]) -> list[TopicPartition]:
    counts = topics.partitions(settings, names)
    return [TopicPartition(topic, number) for topic in names for number in range(counts[topic])]


def _ask(settings: Settings, what: str, ask: Callable[[Consumer, float], list[TopicPartition]]) -> list[TopicPartition]:
    consumer = Consumer({"group.id": GROUP, **settings.kafka, "enable.auto.commit": "false", "logger": _log})
    give_up = time.monotonic() + settings.patience
    try:
        while True:
            try:
                found = ask(consumer, settings.patience)
                break
            except KafkaException as error:
                # The first to ask for any group waits until Kafka has made the topic in which groups are kept.
                if time.monotonic() > give_up:
                    why = error.args[0].str()
                    raise KafkaFailure(f"{settings.bootstrap} does not tell {what}: {why}; try again") from error
                time.sleep(0.1)
    finally:
        consumer.close()
    for place in found:
        if place.error is not None:
            raise KafkaFailure(f"{place.topic}[{place.partition}] does not tell {what}: {place.error.str()}; try again")
    return found


def _instant(metadata: str | None) -> int | None:
    """A commit of another program, or of an older version of this one, says nothing that can be read."""
    try:
        return instant(metadata or "")
    except ValueError:
        return None
