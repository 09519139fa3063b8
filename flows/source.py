"""The Kafka end where records enter: transactions and labels, read in step, as one ordered stream.

All partitions of both topics are one Bytewax partition, read by one process. Records leave in the order of event time
as far as the partitions have data: one that is ahead waits for those that are behind. So every keyed step sees its
records in the same order whatever the number of workers, lateness has one meaning for the whole stream, and no worker
can fall behind in reading. (Bytewax keeps the order from one sender to one receiver, not between source partitions.)

Delivery: the positions are part of the recovery state, so reading resumes where the state was saved, at least once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from operator import itemgetter
from typing import Final, NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, Message, TopicPartition

from features.errors import InvalidRecord, KafkaFailure
from features.transaction import MICROSECOND, Label, Transaction, parse_label, parse_transaction, rfc3339
from flows import metrics, stop, topics
from flows.records import Arrival, Rejection
from flows.settings import Settings

BATCH: Final = 1000  # records a poll
BUFFERED: Final = 5 * BATCH  # records of one partition that may wait for the others before it is paused
PATIENCE: Final = 10.0  # seconds that others wait for a partition that has records but delivers none

_log = logging.getLogger(__name__)

PartitionId = tuple[str, int]
Parse = Callable[[bytes | None, int], Transaction | Label]


class Positions(NamedTuple):
    """The source's recovery state: the next offset of each partition, and the newest event time read so far."""

    offsets: dict[PartitionId, int]
    clock: int


class Lane:
    """One Kafka partition: what was read from it and waits for its turn."""

    def __init__(self, parse: Parse, offset: int) -> None:
        self.parse = parse
        self.offset = offset  # of the first record that has not left
        self.read_to = offset  # of the first record that was not read
        self.lead = 0  # the newest event time read
        self.waiting: deque[tuple[int, int, Transaction | Label | Rejection, Message]] = deque()
        self.moved = False  # read from since the end was last looked for
        self.at_end = False
        self.stirred = time.monotonic()
        self.paused = False


class KafkaSource(FixedPartitionedSource[Arrival | Rejection, Positions]):
    """Transactions and labels as one stream of ``Arrival``, with a ``Rejection`` for each record that is neither."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def list_parts(self) -> list[str]:
        """One partition, whichever worker it falls to."""
        return ["kafka"]

    def build_part(self, step_id: str, for_part: str, resume_state: Positions | None) -> Reader:  # noqa: ARG002
        """A reader from the saved positions on; partitions without one from VIGIE_START_FROM on."""
        return Reader(self.settings, resume_state or Positions({}, 0))


class Reader(StatefulSourcePartition[Arrival | Rejection, Positions]):
    """Reads all partitions with one consumer."""

    def __init__(self, settings: Settings, positions: Positions) -> None:
        self._tolerance = settings.future_tolerance // MICROSECOND
        self._lateness = settings.allowed_lateness // MICROSECOND
        self._clock = positions.clock
        self._sequence = 0
        self._progress = metrics.Progress()
        parse_of: dict[str, Parse] = {
            settings.transactions_topic: parse_transaction,
            settings.labels_topic: parse_label,
        }
        self._consumer = Consumer(
            {
                "group.id": "vigie",
                "fetch.wait.max.ms": "100",
                **settings.kafka,
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "error",
                "logger": _log,
            }
        )
        first = OFFSET_BEGINNING if settings.start_from == "earliest" else OFFSET_END
        self._lanes: dict[PartitionId, Lane] = {}
        assignment = []
        for topic, count in topics.partitions(settings, parse_of).items():
            for number in range(count):
                start = positions.offsets.get((topic, number), first)
                if start < 0:
                    # A stop before the first record must not lose the place where reading began.
                    low, high = self._consumer.get_watermark_offsets(
                        TopicPartition(topic, number), settings.kafka_timeout.total_seconds()
                    )
                    start = low if start == OFFSET_BEGINNING else high
                self._lanes[topic, number] = Lane(parse_of[topic], start)
                assignment.append(TopicPartition(topic, number, start))
        self._consumer.assign(assignment)

    def next_batch(self) -> Iterable[Arrival | Rejection]:
        """The records that are next in event time, as far as that is known; never blocks."""
        if stop.requested.is_set():
            self._progress.tick(final=True)
            raise StopIteration
        latest = _now() + self._tolerance
        for message in self._consumer.consume(BATCH, 0):
            self._take(message, latest)
        for key, lane in self._lanes.items():
            if lane.moved:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(*key), cached=True)
                lane.at_end, lane.moved = lane.read_to >= high, False
        self._progress.tick()
        return self._released()

    def snapshot(self) -> Positions:
        """The positions after the last record that was released."""
        return Positions({key: lane.offset for key, lane in self._lanes.items()}, self._clock)

    def close(self) -> None:
        """Leaves Kafka."""
        self._consumer.close()

    def _take(self, message: Message, latest: int) -> None:
        topic, number, offset = message.topic(), message.partition(), message.offset()
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            self._raise_unless_passing(error, topic, number)
            return
        assert topic is not None
        assert number is not None
        assert offset is not None
        lane = self._lanes[topic, number]
        lane.stirred = time.monotonic()
        if error is not None:
            # Said late, but for a topic that ends in transaction markers it is the only sign of the end.
            lane.at_end, lane.moved = True, False
            return
        event: Transaction | Label | Rejection
        try:
            event = lane.parse(message.value(), latest)
            lane.lead = max(lane.lead, event.labelled_at if isinstance(event, Label) else event.timestamp)
        except InvalidRecord as invalid:
            event = rejection(message, invalid)
        lane.waiting.append((lane.lead, offset, event, message))
        lane.read_to, lane.moved = offset + 1, True

    def _raise_unless_passing(self, error: KafkaError, topic: str | None, number: int | None) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise KafkaFailure(
                f"{topic}[{number}] no longer holds the offset to resume from ({error.str()}); records would be "
                "skipped: restore the topic, or start with an empty recovery directory"
            )
        if error.fatal() or (not error.retriable() and error.code() not in _PASSING):
            raise KafkaFailure(f"reading {topic}[{number}] failed: {error.str()}")
        _log.warning("Kafka: %s", error.str())

    def _released(self) -> list[Arrival | Rejection]:
        lagging = [lane for lane in self._lanes.values() if not lane.at_end]
        limit = min((lane.lead for lane in lagging if not self._given_up(lane)), default=None)
        ready: list[tuple[int, Lane, int, Transaction | Label | Rejection, Message]] = []
        for lane in self._lanes.values():
            waiting = lane.waiting
            while waiting and (limit is None or waiting[0][0] <= limit):
                lead, offset, event, message = waiting.popleft()
                ready.append((lead, lane, offset, event, message))
            self._throttle(lane)
        # Stable, and leads never fall within a partition, so each partition keeps its order.
        ready.sort(key=itemgetter(0))
        return [self._release(lane, offset, event, message) for _, lane, offset, event, message in ready]

    def _release(
        self, lane: Lane, offset: int, event: Transaction | Label | Rejection, message: Message
    ) -> Arrival | Rejection:
        lane.offset = offset + 1
        metrics.READ.labels(message.topic()).inc()
        if isinstance(event, Rejection):
            return event
        self._sequence += 1
        if isinstance(event, Label):
            return Arrival(self._sequence, event, None)
        too_late = None
        if event.timestamp < self._clock - self._lateness:
            too_late = rejection(
                message,
                InvalidRecord(
                    "too_late",
                    f"timestamp is {rfc3339(event.timestamp)}, more than the allowed lateness before the newest event "
                    f"read ({rfc3339(self._clock)}); send events sooner, or raise VIGIE_ALLOWED_LATENESS",
                ),
            )
        self._clock = max(self._clock, event.timestamp)
        return Arrival(self._sequence, event, too_late)

    def _given_up(self, lane: Lane) -> bool:
        """Whether a partition that has records but delivers none has kept the others waiting for long enough."""
        silent = not lane.waiting and time.monotonic() - lane.stirred > PATIENCE
        if silent:
            _log.warning("a partition has records but delivers none; the others go on without it")
            lane.at_end = True
        return silent

    def _throttle(self, lane: Lane) -> None:
        """Stops fetching what would only wait."""
        full = len(lane.waiting) >= BUFFERED
        if full != lane.paused:
            key = next(key for key, value in self._lanes.items() if value is lane)
            (self._consumer.pause if full else self._consumer.resume)([TopicPartition(*key)])
            lane.paused = full


# What passes by itself: the client goes on trying.
_PASSING: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
    }
)


def rejection(message: Message, invalid: InvalidRecord) -> Rejection:
    """The message as it goes to the rejected topic."""
    return Rejection(
        message.key(),
        message.value(),
        {
            "error_code": invalid.code,
            "error_message": str(invalid),
            "source_topic": str(message.topic()),
            "source_partition": str(message.partition()),
            "source_offset": str(message.offset()),
            "rejected_at": rfc3339(_now()),
        },
    )


def _now() -> int:
    return (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
