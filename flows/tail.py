"""What lies in the output topics beyond the state that was saved: the work of an epoch that was cut short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from features.errors import KafkaFailure
from features.fields import END
from flows import handover
from flows.lanes import PartitionId
from flows.settings import GROUP, Settings

_log = logging.getLogger(__name__)


class _Identified(msgspec.Struct):
    transaction_id: str
    account_id: str


_decode = msgspec.json.Decoder(_Identified).decode


def identity(value: bytes | None, headers: Mapping[str, str]) -> bytes:
    """What tells a record of an output topic from all others: a transaction, or the source of a rejected message."""
    if "source_offset" in headers:
        return "\n".join(headers[f"source_{part}"] for part in ("topic", "partition", "offset")).encode()
    found = _decode(value or b"")
    return found.account_id.encode() + END + found.transaction_id.encode()


def read(settings: Settings, topic: str, number: int, start: int) -> tuple[int, frozenset[bytes]]:
    """The end of a partition, and the identities of the records from ``start`` up to it.

    Raises ``KafkaFailure`` where Kafka does not give them.
    """
    end, found = _identities(settings, topic, number, start)
    if found:
        _log.info("read back", extra={"topic": topic, "partition": number, "records": len(found)})
    return end, frozenset(found.values())


def first_open(settings: Settings, topic: str, number: int, start: int, is_done: Callable[[bytes], bool]) -> int:
    """The offset of the first record from ``start`` on whose identity is not done with; the end where all are.

    Raises ``KafkaFailure`` where Kafka does not give them.
    """
    end, found = _identities(settings, topic, number, start)
    return next((offset for offset, name in found.items() if not is_done(name)), end)


def rejected_since(settings: Settings, since: int, code: str) -> frozenset[tuple[str, int, int]]:
    """The sources (topic, partition, offset) of the records that were rejected with the code from that instant on.

    ``since``: microseconds since 1970. Raises ``KafkaFailure`` where Kafka does not tell.
    """
    topic = settings.rejected_topic
    starts = handover.offsets_at(settings, [topic], since - handover.CLOCKS_APART)[topic]
    found = map(headers_of, records(settings, {(topic, number): start for number, start in enumerate(starts)}, {}))
    return frozenset(
        (headers["source_topic"], int(headers["source_partition"]), int(headers["source_offset"]))
        for headers in found
        if headers.get("error_code") == code
    )


def headers_of(message: Message) -> dict[str, str]:
    """A record's headers as text."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {str(name): text.decode() if isinstance(text, bytes) else str(text) for name, text in pairs}


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
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "earliest",  # what Kafka has deleted since cannot be read back
            "logger": _log,
        }
    )
    try:
        consumer.assign([TopicPartition(*key, start) for key, start in starts.items()])
        while len(ends) < len(starts):
            message = consumer.poll(settings.patience)
            if message is None:
                raise KafkaFailure(f"Kafka does not give the ends of {sorted(set(starts) - set(ends))}; try again")
            key, error = (str(message.topic()), message.partition() or 0), message.error()
            if error is None and key not in ends:
                yield message
            elif error is not None and error.code() == KafkaError._PARTITION_EOF:
                ends[key] = message.offset() or 0
            elif error is not None:
                raise KafkaFailure(f"{key[0]}[{key[1]}] cannot be read back: {error.str()}")
    finally:
        consumer.close()


def _identities(settings: Settings, topic: str, number: int, start: int) -> tuple[int, dict[int, bytes]]:
    """The end, and the identity of each record by its offset."""
    ends: dict[PartitionId, int] = {}
    found: dict[int, bytes] = {}
    for message in records(settings, {(topic, number): start}, ends):
        try:
            found[message.offset() or 0] = identity(message.value(), headers_of(message))
        except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as stray:
            _log.warning("%s[%s] offset %s is none of ours: %s", topic, number, message.offset(), stray)
    return ends[topic, number], found
