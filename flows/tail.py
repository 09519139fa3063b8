"""What lies in the output topics beyond the state that was saved: the work of an epoch that was cut short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from flows import handover
from flows.lanes import PartitionId
from flows.reading import headers_of, records
from flows.settings import Settings

END: Final = b"\xff"  # between texts, because it occurs in no UTF-8

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
    return of_transaction(found.account_id, found.transaction_id)


def of_transaction(account_id: str, transaction_id: str) -> bytes:
    """What the flow knows a transaction by."""
    return account_id.encode() + END + transaction_id.encode()


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
    found = set()
    for message in records(settings, {(topic, number): start for number, start in enumerate(starts)}, {}):
        try:
            headers = headers_of(message)
            source = headers["source_topic"], int(headers["source_partition"]), int(headers["source_offset"])
        except (KeyError, ValueError) as stray:
            _log.warning("%s[%s] offset %s is none of ours: %s", topic, message.partition(), message.offset(), stray)
        else:
            if headers.get("error_code") == code:
                found.add(source)
    return frozenset(found)


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
