"""The Kafka end where records enter: transactions and labels, read in step, as one ordered stream.

All partitions of both topics are one Bytewax partition, read by one process. Records leave in the order of event time
as far as the partitions have data: one that is ahead waits for those that are behind. So every keyed step sees its
records in the same order whatever the number of workers. (Bytewax keeps the order from one sender to one receiver, but
not between source partitions, and those on different workers can starve each other.)

Lateness: a transaction is too late where its timestamp lies more than the allowed lateness before the newest one read
before it from its own Kafka partition; so what is too late depends on the partition's records alone. Only a partition
that was silent for a minute is also measured against the others, because their windows have moved on without it.

Delivery: the positions are part of the recovery state, so reading resumes where the state was saved. What an epoch that
was cut short had read is read again, and is judged again as it was: what the judgement rests on besides the partition's
own records stays the same for a whole epoch and is part of the state, or is looked up in the rejected topic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from features.errors import InvalidRecord
from features.transaction import MICROSECOND, Label, microseconds, parse_label, parse_transaction, rfc3339
from flows import metrics, poll, stop, tail, topics
from flows.intake import Dealt, Intake, Reading, rejection
from flows.invocation import Invocation
from flows.journal import NOTHING, Memory, Position
from flows.lanes import Lane, Lanes, Parse, PartitionId
from flows.records import TEXTS, Beat, Rejection
from flows.settings import GROUP, Settings

BATCH: Final = 4000  # records a poll
_NEVER: Final = 1 << 63  # no partition has that offset
REST: Final = 0.02  # seconds from one poll to the next while nothing more can be written, so that batches are fewer

_log = logging.getLogger(__name__)


Item = Rejection | Dealt | Beat
Place = tuple[str, int, int]  # topic, partition, offset


class Positions(NamedTuple):
    """The source's recovery state.

    ``offsets``: of each partition the next record to read. ``leads``: of each partition the newest event time that has
    left. ``watermark``: no transaction before that instant comes any more, but those that are too late, in
    microseconds since 1970, as is ``taken_at``, when the state was taken. ``ahead``: records still to be read that an
    earlier run has rejected because they were ahead of the clock. ``journal``: what of the journal is valid.
    """

    offsets: dict[PartitionId, int]
    leads: dict[PartitionId, int]
    watermark: int
    taken_at: int
    ahead: frozenset[Place] = frozenset()
    journal: Position = NOTHING


NOWHERE: Final = Positions({}, {}, 0, 0)


class KafkaSource(FixedPartitionedSource[Item, Positions]):
    """Transactions and labels, dealt to the workers' shards, with a ``Rejection`` for each record that is neither.

    ``first``: where it begins without a saved state. ``until``: offsets at which reading ends; see ``Reader``.
    ``memory``: where what was read is kept; None without recovery. ``busy``: whether what is computed now would have to
    wait for what is being written. ``texts``: those that the merchants' windows look at.
    """

    def __init__(
        self,
        settings: Settings,
        place: Invocation,
        memory: Memory | None = None,
        first: Positions = NOWHERE,
        until: Mapping[PartitionId, int] | None = None,
        *,
        busy: Callable[[], bool] = lambda: False,
        texts: Collection[str] = TEXTS,
    ) -> None:
        self.settings = settings
        self.place = place
        self.busy = busy
        self.texts = texts
        self.memory = memory
        self.first = first
        self.until = until

    def list_parts(self) -> list[str]:
        """One partition, of the first process: the journal is where that one works."""
        stop.connected.set()  # Bytewax asks in every process, as soon as all of them are connected
        return ["kafka"] if self.place.index == 0 else []

    def build_part(self, step_id: str, for_part: str, resume_state: Positions | None) -> Reader:  # noqa: ARG002
        """A reader from the saved positions on; partitions without one from VIGIE_START_FROM on."""
        positions = resume_state or self.first
        journal, watermark = positions.journal, positions.watermark
        intake = Intake(self.settings, self.place.count, self.memory, journal, watermark, texts=self.texts)
        return Reader(self.settings, positions, intake, self.until, busy=self.busy)


class Reader(StatefulSourcePartition[Item, Positions]):
    """Reads all partitions with one consumer; for ever, or with ``until`` to where all partitions named there are.

    First it gives back what the journal remembers.

    None of their records at those offsets or beyond leaves; and none is committed, for others will go on from there.
    """

    def __init__(
        self,
        settings: Settings,
        positions: Positions,
        intake: Intake,
        until: Mapping[PartitionId, int] | None = None,
        *,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._intake = intake
        self._busy = busy
        self._rested = 0.0  # when it has rested for long enough, by time.monotonic
        self._past = intake.past()
        self._replayed = False  # whether that was all of the past
        self._beat: bool | None = False  # whether it was when the last epoch closed; None when that was told
        self._until = until or {}
        self._tolerance = settings.future_tolerance // MICROSECOND
        self._lateness = settings.allowed_lateness // MICROSECOND
        self._transactions = settings.transactions_topic
        self._watermark = positions.watermark
        self._next_watermark = positions.watermark  # of the next epoch
        self._progress = metrics.Progress()
        self._durable: dict[PartitionId, int] = {}
        self._taken_at = positions.taken_at
        self._consumer = Consumer(
            {
                "group.id": GROUP,
                "fetch.wait.max.ms": "100",
                **settings.kafka,
                "isolation.level": "read_committed",
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "error",
                "on_commit": _say_uncommitted,
                "logger": _log,
            }
        )
        # What was too far ahead of the clock then need not be so now.
        self._ahead = positions.ahead
        if positions.taken_at:
            self._ahead |= tail.rejected_since(settings, positions.taken_at, "timestamp_in_future")
        # Labels first: what became known at the very instant of a transaction, it may know.
        parsers: dict[str, Parse] = {settings.labels_topic: parse_label, settings.transactions_topic: parse_transaction}
        lanes: dict[PartitionId, Lane[Reading]] = {}
        for key, offset in topics.starts(self._consumer, settings, list(parsers), positions.offsets).items():
            settles = key[0] == settings.transactions_topic
            lanes[key] = Lane(parsers[key[0]], offset, positions.leads.get(key, 0), settles=settles)
        self._lanes = Lanes(lanes)
        self._consumer.assign([TopicPartition(*key, lane.offset) for key, lane in lanes.items()])
        self._show(lanes)

    def next_batch(self) -> Iterable[Item]:
        """The records that are next in event time, as far as that is known; never blocks.

        In an epoch's first batch also that the epoch before has closed (``flows.pulse``).
        """
        if stop.requested.is_set() or self._has_arrived():
            self._progress.tick(final=True)
            raise StopIteration
        items = self._next()
        if self._beat is None:
            return items
        replayed, self._beat = self._beat, None
        return [*(Beat(key, replayed) for key in self._intake.keys), *items]

    def _next(self) -> Sequence[Rejection | Dealt]:
        for remembered in self._past:
            return remembered
        self._replayed = True
        if self._busy() and time.monotonic() < self._rested:
            return ()
        now = microseconds(datetime.now(UTC))
        messages = self._consumer.consume(BATCH, 0)
        if 0 < len(messages) < BATCH:
            self._rested = time.monotonic() + REST
        for key, run in poll.runs(messages):
            self._take(key, run, now + self._tolerance)
        for key, lane in self._lanes.moved():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(*key), cached=True)
            lane.end = high
            lane.at_end = lane.read_to >= min(high, self._until.get(key, high))
        released = self._lanes.release(now)
        for key, full in self._lanes.throttle():
            (self._consumer.pause if full else self._consumer.resume)([TopicPartition(*key)])
        items = self._intake.take(released, self._watermark)
        self._next_watermark = max(self._next_watermark, self._lanes.slowest(self._transactions) - self._lateness)
        if self._until:
            self._watermark = self._next_watermark  # the past is read in one epoch, and nothing of it comes out
        self._progress.tick()
        return items

    def snapshot(self) -> Positions:
        """The positions after the last record that was released.

        What the snapshot before this one held is durable by now, and is told to Kafka, where lag is looked up, with the
        time at which it was taken, since what was written before that time belongs to what was read before it.
        """
        if self._durable and not self._until:
            offsets = [TopicPartition(*key, offset, rfc3339(self._taken_at)) for key, offset in self._durable.items()]
            self._consumer.commit(offsets=offsets, asynchronous=True)
        self._durable = self._lanes.offsets()
        self._watermark = self._next_watermark
        self._beat = self._replayed
        self._taken_at = microseconds(datetime.now(UTC))
        if self._ahead:
            # What lies behind is done with; a run that ends before it came to the rest leaves it to the next one.
            self._ahead = frozenset(place for place in self._ahead if place[2] >= self._durable.get(place[:2], 0))
        journal = self._intake.save()
        return Positions(self._durable, self._lanes.leads(), self._watermark, self._taken_at, self._ahead, journal)

    def close(self) -> None:
        """Leaves Kafka."""
        self._consumer.close()
        self._intake.close()

    def _show(self, lanes: Mapping[PartitionId, Lane[Reading]]) -> None:
        """From now on the metrics tell of these lanes; their threads read what this one writes, whole numbers."""
        for (topic, number), lane in lanes.items():
            metrics.READ.labels(topic)
            metrics.CONSUMER_LAG.read(lane.lag, topic, str(number))
        metrics.WATERMARK_LAG.read(self._behind)

    def _behind(self) -> float | None:
        """Seconds from the event time that has been reached to now; None where nothing has been read."""
        reached = self._next_watermark + self._lateness
        return time.time() - reached / 1e6 if self._next_watermark > 0 else None

    def _take(self, key: PartitionId, run: Sequence[Message], latest: int) -> None:
        """Takes in what one partition has delivered; done for each record, so what can be is done for all at once."""
        lane, until, ahead, lateness = None, self._until.get(key, _NEVER), self._ahead, self._lateness
        taken = 0
        for message in run:
            error, offset = message.error(), message.offset()
            if error is not None:
                self._heed(error, key, offset or 0)
                lane = None
                continue
            assert offset is not None
            if offset >= until:
                self._lanes[key].reached_end(until)
                self._consumer.pause([TopicPartition(*key)])
                continue
            if lane is None:
                lane = self._lanes.delivers(key)
            taken += 1
            try:
                event = lane.parse(message.value(), 0 if ahead and (*key, offset) in ahead else latest)
            except InvalidRecord as invalid:
                lane.add(offset, None, Reading(rejection(message, invalid), late=False, message=message))
                continue
            if isinstance(event, Label):
                lane.add(offset, event.labelled_at, Reading(event, late=False, message=message))
            else:
                lane.add(offset, event.timestamp, Reading(event, event.timestamp < lane.lead - lateness, message))
        if taken:
            metrics.READ.labels(key[0]).inc(taken)

    def _heed(self, error: KafkaError, key: PartitionId, offset: int) -> None:
        """What Kafka says in place of a record."""
        if error.code() != KafkaError._PARTITION_EOF:
            poll.raise_unless_passing(error, *key)
        else:
            # Comes late, but where transaction markers end a partition it is the only sign of the end.
            self._lanes[key].reached_end(min(offset, self._until.get(key, offset)))

    def _has_arrived(self) -> bool:
        """Whether everything before ``until`` has left; a lane that was given up may still have some of it."""
        lanes = [self._lanes[key] for key in self._until]
        return bool(lanes) and all(lane.at_end and not lane.given_up and not lane.waiting for lane in lanes)


def _say_uncommitted(error: KafkaError | None, _offsets: list[TopicPartition]) -> None:
    """Committed offsets only inform; the recovery state has its own."""
    if error is not None:
        _log.warning("Kafka was not told how far the flow has come: %s", error.str())
