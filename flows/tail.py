"""What lies in the output topics beyond the state that was saved: the work of an epoch that was cut short."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.errors import KafkaFailure
from features.fields import END
from flows import topics
from flows.settings import GROUP, Settings

CLOCKS_APART: Final = 60_000  # milliseconds by which the clocks of processes may differ

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
    consumer = _consumer(settings)
    try:
        low, end = topics.edges(consumer, topic, number, settings)
        found: set[bytes] = set()
        for message in _records(consumer, settings, {(topic, number): (max(low, start), end)}):
            try:
                found.add(identity(message.value(), headers_of(message)))
            except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as stray:
                _log.warning("%s[%s] offset %s is none of ours: %s", topic, number, message.offset(), stray)
        if found:
            _log.info("read back", extra={"topic": topic, "partition": number, "records": len(found)})
        return end, frozenset(found)
    finally:
        consumer.close()


def rejected_since(settings: Settings, since: int, code: str) -> frozenset[tuple[str, int, int]]:
    """The sources (topic, partition, offset) of the records that were rejected with the code from that instant on.

    ``since``: microseconds since 1970. Raises ``KafkaFailure`` where Kafka does not tell.
    """
    topic = settings.rejected_topic
    consumer = _consumer(settings)
    try:
        count = topics.partitions(settings, [topic])[topic]
        asked = [TopicPartition(topic, number, max(0, since // 1000 - CLOCKS_APART)) for number in range(count)]
        try:
            starts = consumer.offsets_for_times(asked, settings.patience)
        except KafkaException as error:
            raise KafkaFailure(f"{topic} does not tell offsets by time: {error.args[0].str()}") from error
        spans = {}
        for start in starts:
            if start.offset >= 0:
                spans[topic, start.partition] = (
                    start.offset,
                    topics.edges(consumer, topic, start.partition, settings)[1],
                )
        found = (headers_of(message) for message in _records(consumer, settings, spans))
        return frozenset(
            (headers["source_topic"], int(headers["source_partition"]), int(headers["source_offset"]))
            for headers in found
            if headers.get("error_code") == code
        )
    finally:
        consumer.close()


def headers_of(message: Message) -> dict[str, str]:
    """A record's headers as text."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {str(name): text.decode() if isinstance(text, bytes) else str(text) for name, text in pairs}


def _consumer(settings: Settings) -> Consumer:
    return Consumer(
        {
            "group.id": f"{GROUP}-tail",
            "fetch.wait.max.ms": "20",
            **settings.kafka,
            "isolation.level": "read_committed",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "error",
            "logger": _log,
        }
    )


def _records(
    consumer: Consumer, settings: Settings, spans: Mapping[tuple[str, int], tuple[int, int]]
) -> Iterator[Message]:
    """The committed records of partitions, from an offset up to another."""
    open_ends = {key: end for key, (start, end) in spans.items() if start < end}
    consumer.assign([TopicPartition(*key, spans[key][0]) for key in open_ends])
    while open_ends:
        message = consumer.poll(settings.patience)
        if message is None:
            raise KafkaFailure(f"{sorted(open_ends)} give nothing of what lies before the offsets {open_ends}")
        key, error = (str(message.topic()), message.partition() or 0), message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaFailure(f"{key[0]}[{key[1]}] cannot be read back: {error.str()}")
        if error is None and key in open_ends:
            yield message
        # The sign of the end comes late, but where transaction markers end a partition there is no other.
        if error is not None or (message.offset() or 0) + 1 >= open_ends.get(key, 0):
            open_ends.pop(key, None)
