"""What lies in an output partition beyond the state that was saved: the work of an epoch that was cut short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from features.errors import KafkaFailure
from features.fields import END
from flows import topics
from flows.settings import Settings

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
    return end, frozenset(found.values())


def first_open(settings: Settings, topic: str, number: int, start: int, is_done: Callable[[bytes], bool]) -> int:
    """The offset of the first record from ``start`` on whose identity is not done with; the end where all are.

    Raises ``KafkaFailure`` where Kafka does not give them.
    """
    end, found = _identities(settings, topic, number, start)
    return next((offset for offset, name in found.items() if not is_done(name)), end)


def _identities(settings: Settings, topic: str, number: int, start: int) -> tuple[int, dict[int, bytes]]:
    """The end, and the identity of each record by its offset."""
    consumer = Consumer(
        {
            "group.id": "vigie-tail",
            "fetch.wait.max.ms": "20",
            **settings.kafka,
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "error",
            "logger": _log,
        }
    )
    try:
        low, end = topics.edges(consumer, topic, number, settings)
        found: dict[int, bytes] = {}
        if max(low, start) >= end:
            return end, found
        consumer.assign([TopicPartition(topic, number, max(low, start))])
        patience = settings.kafka_timeout.total_seconds()
        while (message := consumer.poll(patience)) is not None:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaFailure(f"{topic}[{number}] cannot be read back: {error.str()}")
            if error is None:
                try:
                    found[message.offset() or 0] = identity(message.value(), _headers(message))
                except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as stray:
                    _log.warning("%s[%s] offset %s is none of ours: %s", topic, number, message.offset(), stray)
            # The sign of the end comes late, but where transaction markers end a partition there is no other.
            if error is not None or (message.offset() or 0) + 1 >= end:
                _log.info("read back", extra={"topic": topic, "partition": number, "records": len(found)})
                return end, found
        raise KafkaFailure(f"{topic}[{number}] gives nothing of what lies beyond offset {start}")
    finally:
        consumer.close()


def _headers(message: Message) -> dict[str, str]:
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {str(name): text.decode() if isinstance(text, bytes) else str(text) for name, text in pairs}
