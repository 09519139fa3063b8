"""The Kafka end where records leave: one Bytewax partition for each partition of the topic.

Delivery: with recovery, effectively once. Every record is acknowledged by all in-sync replicas before the epoch that
wrote it counts as done, and the epoch's state says up to which offset that was. After a crash, what lies beyond is what
the unfinished epoch had written; it is read back, and not written again when the flow comes to it once more. A record
that Kafka does not take stops the flow. Without recovery the flow starts anew, and writes anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from features.errors import KafkaFailure
from flows import tail, topics
from flows.records import Outgoing
from flows.settings import Settings

CLOSING: Final = 5.0  # seconds
FRAMING: Final = 200  # bytes that the record format and one more header may add

_log = logging.getLogger(__name__)
# A broker that has just started makes producers wait for their ids; the client says so at every try.
_log.addFilter(lambda record: "idempotence PID" not in record.getMessage() or "retrying" not in record.getMessage())
_producers: dict[frozenset[tuple[str, str]], Producer] = {}


class Written(NamedTuple):
    """The recovery state of one partition.

    ``until``: the offset after the last record of the epochs that are done. ``repeats``: records before it that the
    flow will come to again, because an epoch that was cut short had got further than those that took its place.
    """

    until: int
    repeats: frozenset[bytes]


class KafkaSink(FixedPartitionedSink[Outgoing, Written]):
    """Writes ``(key, Outgoing)`` to a topic; the key decides the partition as the Kafka client itself would.

    ``begins``: with recovery, the offsets from which on each partition of the topics is this flow's. ``cut``: a record
    that is larger than the topic takes is cut, and says so, instead of stopping the flow for ever.
    """

    def __init__(
        self, settings: Settings, topic: str, begins: Mapping[str, Sequence[int]] | None = None, *, cut: bool = False
    ) -> None:
        self.settings = settings
        self.topic = topic
        self.begins = begins.get(topic) if begins else None
        self.cut = cut

    def list_parts(self) -> list[str]:
        """The topic's partitions; Bytewax sorts them as text, hence the zeros."""
        return [f"{number:05d}" for number in range(topics.partitions(self.settings, [self.topic])[self.topic])]

    def part_fn(self, item_key: str) -> int:
        """CRC-32, the default of librdkafka's partitioner."""
        return crc32(item_key.encode())

    def build_part(self, step_id: str, for_part: str, resume_state: Written | None) -> Writer:  # noqa: ARG002
        """A writer to one partition of the topic, that knows what was written beyond the saved state."""
        number = int(for_part)
        largest = topics.largest_record(self.settings, self.topic) if self.cut else None
        written = resume_state
        if written is None and self.begins is not None:
            written = Written(self.begins[number] if number < len(self.begins) else 0, frozenset())
        if written is not None:
            until, found = tail.read(self.settings, self.topic, number, written.until)
            written = Written(until, written.repeats | found)
        return Writer(producer(self.settings.kafka), self.topic, number, largest, written)


class Writer(StatefulSinkPartition[Outgoing, Written]):
    """Writes to one partition; shares the process's producer with all others."""

    def __init__(
        self,
        client: Producer,
        topic: str,
        number: int,
        largest: int | None = None,
        written: Written | None = None,
    ) -> None:
        self._until, repeats = written or Written(0, frozenset())
        self._repeats = set(repeats)
        self._largest = largest
        self._producer = client
        self._topic = topic
        self._number = number
        self._failure: KafkaError | None = None

    def write_batch(self, values: list[Outgoing]) -> None:
        """Hands the records to the producer; blocks only while its queue is full."""
        for outgoing in values:
            if self._repeats and (identity := tail.identity(outgoing.value, outgoing.headers)) in self._repeats:
                self._repeats.remove(identity)
                continue
            key, value, headers = outgoing if self._largest is None else _cut(outgoing, self._largest)
            while True:
                try:
                    self._producer.produce(
                        self._topic, value, key, self._number, self._delivered, headers=list(headers.items())
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
                    self._raise_failure()
                except KafkaException as error:
                    self._failure = error.args[0]
                    self._raise_failure()
        self._producer.poll(0)
        self._raise_failure()

    def snapshot(self) -> Written:
        """Returns when everything written so far is acknowledged; the epoch waits for it."""
        # Ends by itself: the client reports a record as failed after delivery.timeout.ms.
        while self._producer.flush(1.0):
            self._raise_failure()
        self._raise_failure()
        return Written(self._until, frozenset(self._repeats))

    def close(self) -> None:
        """Says what is left of a failure: by now every epoch is acknowledged, or the flow is ending because of one.

        It must not raise: Bytewax also calls it while another error unwinds, and two abort the process without a word.
        """
        self._producer.flush(CLOSING)
        if self._failure is not None:
            _log.error("%s[%s] did not take a record: %s", self._topic, self._number, self._failure.str())

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = error
        else:
            self._until = max(self._until, (message.offset() or 0) + 1)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise KafkaFailure(
                f"{self._topic}[{self._number}] did not take a record: {self._failure.str()}; the flow stops so that "
                "none is lost: it writes them again when it starts"
            )


def _cut(outgoing: Outgoing, largest: int) -> Outgoing:
    key, value, headers = outgoing
    rest = len(key or b"") + sum(len(name) + len(text.encode()) + 10 for name, text in headers.items()) + FRAMING
    if value is None or len(value) + rest <= largest:
        return outgoing
    return Outgoing(key, value[: max(0, largest - rest)], {**headers, "value_cut_from_bytes": str(len(value))})


def producer(properties: Mapping[str, str]) -> Producer:
    """The process's one producer for these client properties."""
    key = frozenset(properties.items())
    if key not in _producers:
        _producers[key] = Producer(
            {
                "linger.ms": "2",
                "compression.type": "lz4",
                "message.max.bytes": "10000000",  # the topic sets the limit
                **properties,
                "enable.idempotence": "true",
                "acks": "all",
                "logger": _log,
            }
        )
    return _producers[key]
