"""The rejected topic read back: what was rejected, and how far the redrive has come in it.

How far is the offset of a consumer group of its own. Each error code has a place of its own there, so that a redrive of
some codes leaves the others for a later one: the group's offset is the place of all codes but those that its metadata
names, which are ahead of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.errors import KafkaFailure
from flows import topics
from flows.reading import headers_of
from flows.settings import Settings

BATCH: Final = 1000

_log = logging.getLogger(__name__)
_decode_ahead = msgspec.json.Decoder(dict[str, int]).decode


class Place(NamedTuple):
    """How far the redrive has come in one partition: ``offset``, but for the codes in ``ahead``, which are further."""

    offset: int
    ahead: Mapping[str, int]

    @classmethod
    def committed(cls, stored: TopicPartition) -> Place:
        """As Kafka has stored it; the beginning where it has not."""
        if stored.offset < 0:
            return cls(0, {})
        return cls(stored.offset, _decode_ahead(stored.metadata) if stored.metadata else {})

    def of(self, code: str) -> int:
        """The first offset that the redrive has not come to with this code."""
        return max(self.offset, self.ahead.get(code, 0))

    def least(self, codes: Collection[str]) -> int:
        """The first offset to read for these codes; no codes are all."""
        return min((self.of(code) for code in codes), default=self.offset)

    def moved(self, codes: Collection[str], offset: int) -> Place:
        """The place after all records of these codes before ``offset`` are done; no codes are all."""
        if not codes:
            ahead = {code: at for code, at in self.ahead.items() if at > max(self.offset, offset)}
            return Place(max(self.offset, offset), ahead)
        return Place(self.offset, {**self.ahead, **{code: max(self.of(code), offset) for code in codes}})

    def stored(self, topic: str, number: int) -> TopicPartition:
        """In the form in which Kafka stores it."""
        return TopicPartition(topic, number, self.offset, msgspec.json.encode(self.ahead).decode())


class Rejected(NamedTuple):
    """A record of the rejected topic, and where it came from.

    ``cut_from``: the bytes its value had, if it was cut. ``key_cut``: whether even its key was.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    code: str
    source_topic: str
    source_partition: int
    source_offset: int
    cut_from: int | None
    key_cut: bool


def rejected(message: Message) -> Rejected | None:
    """The message as the flow wrote it; None where the flow did not write it."""
    try:
        headers = headers_of(message)
        return Rejected(
            message.partition() or 0,
            message.offset() or 0,
            message.key(),
            message.value(),
            headers["error_code"],
            headers["source_topic"],
            int(headers["source_partition"]),
            int(headers["source_offset"]),
            int(headers["value_cut_from_bytes"]) if "value_cut_from_bytes" in headers else None,
            "key_cut_from_bytes" in headers,
        )
    except (KeyError, ValueError):
        return None


class Reading:
    """Reads partitions from one offset to another, one after the other; committed records only."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._settings = settings
        self._patience = settings.patience
        self.consumer = Consumer(
            {
                "fetch.wait.max.ms": "20",
                **settings.kafka,
                "group.id": group,
                "isolation.level": "read_committed",
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "error",
                "logger": _log,
            }
        )

    def edges(self, topic: str, number: int) -> tuple[int, int]:
        """The first offset of a partition, and the one after its last committed record."""
        return topics.edges(self.consumer, topic, number, self._settings)

    def place(self, topic: str, number: int) -> Place:
        """How far the group has come in a partition. Raises ``KafkaFailure`` where Kafka does not tell in time."""
        give_up = time.monotonic() + self._patience
        while True:
            try:
                (stored,) = self.consumer.committed([TopicPartition(topic, number)], self._patience)
            except KafkaException as error:
                # The first to ask for any group waits until Kafka has made the topic in which groups are kept.
                if time.monotonic() > give_up:
                    raise KafkaFailure(
                        f"Kafka does not tell how far the redrive has come in {topic}[{number}]: {error.args[0].str()}"
                    ) from error
                time.sleep(0.1)
            else:
                return Place.committed(stored)

    def between(self, topic: str, number: int, begin: int, end: int) -> Iterator[Message]:
        """The records from ``begin`` to before ``end``. Raises ``KafkaFailure``."""
        low, high = self.edges(topic, number)
        begin, end = max(low, begin), min(high, end)
        if begin >= end:
            return
        self.consumer.assign([TopicPartition(topic, number, begin)])
        give_up = time.monotonic() + self._patience
        try:
            while time.monotonic() < give_up:
                # A call returns when it has so many, or when the time is over, however few it has by then.
                for message in self.consumer.consume(BATCH, 0.05):
                    error = message.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaFailure(f"{topic}[{number}] cannot be read: {error.str()}")
                    # Where transaction markers end a partition, only the sign of the end tells that nothing follows.
                    if error is not None or (message.offset() or 0) >= end:
                        return
                    yield message
                    if (message.offset() or 0) + 1 >= end:
                        return
                    give_up = time.monotonic() + self._patience
            raise KafkaFailure(f"{topic}[{number}] gives nothing of what lies before offset {end}")
        finally:
            self.consumer.unassign()

    def whole(self, record: Rejected) -> bytes | None:
        """The value of a record as it was before it was cut; None where Kafka no longer holds it."""
        if record.cut_from is None:
            return record.value
        for message in self.between(
            record.source_topic, record.source_partition, record.source_offset, record.source_offset + 1
        ):
            value = message.value() or b""
            if len(value) == record.cut_from and value.startswith(record.value or b""):
                return value
        return None

    def close(self) -> None:
        """Leaves Kafka."""
        self.consumer.close()
