"""Several partitions read in step: each is a lane, and one that is ahead in event time waits for those behind it.

A lane's lead is the newest event time read from it, so leads never fall and every lane keeps its own order.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Final, Generic, TypeVar

from features.transaction import Label, Transaction

BUFFERED: Final = 50_000  # records of all lanes that may wait before those with the most of them are paused
PATIENCE: Final = 10.0  # seconds that others wait for a lane that has records but delivers none
SETTLING: Final = 0.1  # seconds that history waits for a lane of its own kind that was just read to its end
IDLE: Final = 60.0  # seconds of silence after which a lane does not hold the watermark back
OUTAGE: Final = 1.0  # seconds in which no lane at all delivers: probably Kafka is away
OUTAGE_PATIENCE: Final = 30.0  # times as long are the others to wait then, since order is lost where a lane is given up
LIVE: Final = 60_000_000  # microseconds: what is younger never waits for a lane that was read to its end
_LEAD: Final = itemgetter(0)
_STEP: Final = 0.1  # seconds at most that one look counts, so that a stall of the whole process counts for nothing

PartitionId = tuple[str, int]
Parse = Callable[[bytes | None, int], Transaction | Label]
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Lane(Generic[T]):
    """One partition: how far it was read, and what waits for its turn.

    ``settles``: whether history waits a moment for it when it was read to its end.
    """

    def __init__(self, parse: Parse, offset: int, lead: int, *, settles: bool) -> None:
        self.parse = parse
        self.settles = settles
        self.offset = self.read_to = offset  # of the first record that has not left, and that was not read
        self.lead = self.left = lead  # the newest event time read, and that has left
        self.at_end = False  # as far as Kafka has told
        self.end: int | None = None  # the offset after its last record, as far as Kafka has told
        self.moved = False  # since the end was last looked for
        self.paused = False
        self.given_up = False  # taken to be at its end because it delivered nothing
        self.stirred = 0.0  # when it last delivered, by the lanes' own clock
        self.missed = 0.0  # seconds that the others have waited for it
        self.waiting: list[tuple[int, int, T]] = []  # lead, offset, record

    def lag(self) -> int | None:
        """How many records have not left; None before Kafka has told where the partition ends."""
        return None if self.end is None else max(0, self.end - self.offset)

    def add(self, offset: int, event_time: int | None, record: T) -> None:
        """Takes in its next record; one without an event time has that of the record before it."""
        if event_time is not None and event_time > self.lead:
            self.lead = event_time
        self.waiting.append((self.lead, offset, record))
        self.read_to = offset + 1

    def reached_end(self, offset: int) -> None:
        """Kafka says that there is no more before ``offset``; marks that no record reaches may lie between."""
        self.at_end, self.moved, self.given_up = True, False, False
        self.end = offset
        self.read_to = max(self.read_to, offset)
        if not self.waiting:
            self.offset = self.read_to

    def leave(self, limit: int | None) -> list[tuple[int, int, T]]:
        """Those that wait and have a lead of at most ``limit``; they do not wait any more."""
        number = len(self.waiting) if limit is None else bisect_right(self.waiting, limit, key=_LEAD)
        leaving = self.waiting[:number]
        if leaving:
            del self.waiting[:number]
            self.left, last, _ = leaving[-1]
            self.offset = last + 1
        return leaving


class Lanes(Generic[T]):
    """All lanes of a reader."""

    def __init__(self, lanes: Mapping[PartitionId, Lane[T]]) -> None:
        self._lanes = lanes
        self._clock = 0.0  # seconds spent asking
        self._looked = time.monotonic()
        self._delivered = 0.0  # when any lane last delivered, by that clock

    def __getitem__(self, key: PartitionId) -> Lane[T]:
        return self._lanes[key]

    def delivers(self, key: PartitionId) -> Lane[T]:
        """The lane, to which records are to be added that Kafka has delivered."""
        if self._clock - self._delivered > OUTAGE:
            # Kafka is back: what was given up for want of an answer counts again.
            for lane in self._lanes.values():
                if lane.given_up:
                    lane.at_end = lane.given_up = False
                    lane.stirred = self._clock
        self._delivered = self._clock
        lane = self._lanes[key]
        lane.moved, lane.given_up = True, False
        lane.missed, lane.stirred = 0.0, self._clock
        return lane

    def moved(self) -> Iterator[tuple[PartitionId, Lane[T]]]:
        """The lanes read from since this was last asked."""
        for key, lane in self._lanes.items():
            if lane.moved:
                lane.moved = False
                yield key, lane

    def release(self, now: int) -> list[T]:
        """The records whose turn it is, in the order of event time; ``now`` in microseconds since 1970.

        A record waits for every lane that has more to read and lies behind it. History (what is older than a minute)
        also waits a moment for lanes that settle: their producer may not have got further yet.
        """
        looked = time.monotonic()
        passed = min(looked - self._looked, _STEP)
        self._clock += passed
        self._looked = looked
        if self._clock - self._delivered > OUTAGE:
            passed /= OUTAGE_PATIENCE
        behind, settling = [], []
        for key, lane in self._lanes.items():
            silent = self._clock - lane.stirred
            lane.missed = 0.0 if lane.at_end or lane.waiting else lane.missed + passed
            if lane.missed > PATIENCE:
                _log.warning("a partition delivers nothing; the others go on", extra={"partition": key})
                lane.at_end = lane.given_up = True
            elif not lane.at_end:
                behind.append(lane.lead)
            elif lane.settles and silent < SETTLING:
                settling.append(lane.lead)
        limit = min(behind, default=None)
        limit_of_history = min(settling, default=None)
        if limit_of_history is not None and any(
            lane.waiting and limit_of_history < lane.waiting[0][0] < now - LIVE for lane in self._lanes.values()
        ):
            # What is newer than history that waits must wait with it.
            limit = limit_of_history if limit is None else min(limit, limit_of_history)
        ready: list[tuple[int, int, T]] = []
        for lane in self._lanes.values():
            ready += lane.leave(limit)
        ready.sort(key=_LEAD)  # stable, so each lane keeps its order
        return [record for _, _, record in ready]

    def slowest(self, topic: str) -> int:
        """The least event time up to which the topic's lanes have left, not counting silent ones; 0 without any."""
        return min(
            (
                lane.left
                for (of_topic, _), lane in self._lanes.items()
                if of_topic == topic and (lane.waiting or not lane.at_end or self._clock - lane.stirred < IDLE)
            ),
            default=0,
        )

    def throttle(self) -> Iterator[tuple[PartitionId, bool]]:
        """Lanes to pause (true), because what they deliver would only wait, or to resume (false).

        Seldom: the client throws away what it has fetched of a partition that is paused. So those are paused that hold
        more than an even share when all together hold too much, and resumed at half of it.
        """
        share = BUFFERED // len(self._lanes)
        too_much = sum(len(lane.waiting) for lane in self._lanes.values()) >= BUFFERED
        for key, lane in self._lanes.items():
            waiting = len(lane.waiting)
            full = waiting > share // 2 if lane.paused else too_much and waiting >= share
            if full != lane.paused:
                lane.paused = full
                yield key, full

    def offsets(self) -> dict[PartitionId, int]:
        """Of each lane the first record that has not left."""
        return {key: lane.offset for key, lane in self._lanes.items()}

    def leads(self) -> dict[PartitionId, int]:
        """Of each lane the newest event time that has left."""
        return {key: lane.left for key, lane in self._lanes.items()}
