"""Lanes without Kafka and without time passing: what leaves, in which order, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidRecord
from features.transaction import Label, Transaction
from flows import lanes as module
from flows.lanes import BUFFERED, IDLE, LIVE, OUTAGE, OUTAGE_PATIENCE, PATIENCE, SETTLING, Lane, Lanes, PartitionId

NOW = 1_800_000_000_000_000  # microseconds
LOOK = 0.05  # seconds between two looks


class Record(NamedTuple):
    """A record of a partition; one that cannot be read has no time."""

    lane: int
    offset: int
    time: int | None


class Clock:
    """Stands where the time module stands in the lanes' module."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


def unused(_value: bytes | None, _latest: int) -> Transaction | Label:
    raise InvalidRecord("empty_value", "the lanes do not parse")


@dataclass
class Partitions:
    """Partitions of one topic as a reader sees them: what was produced, how far each was read, what has left."""

    number: int
    clock: Clock
    produced: list[list[Record]] = field(default_factory=list)
    left: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.produced = [[] for _ in range(self.number)]
        self.paused: set[int] = set()
        made = {key(i): Lane[Record](unused, 0, 0, settles=True) for i in range(self.number)}
        self.lanes = Lanes(made)

    def produce(self, lane: int, *times: int | None) -> None:
        """Appends to a partition."""
        self.produced[lane] += [Record(lane, len(self.produced[lane]) + i, time) for i, time in enumerate(times)]

    def deliver(self, lane: int, at_most: int = 1_000_000) -> None:
        """What a poll may give of one partition; then the lane learns whether that was all, as the reader tells it."""
        if lane in self.paused:
            return
        read_to = self.lanes[key(lane)].read_to
        for record in self.produced[lane][read_to : read_to + at_most]:
            self.lanes.delivers(key(lane)).add(record.offset, record.time, record)
        for _, moved in self.lanes.moved():
            moved.at_end = moved.read_to >= len(self.produced[lane])

    def reach_end(self, lane: int) -> None:
        """Kafka's word that there is nothing more."""
        assert self.lanes[key(lane)].read_to == len(self.produced[lane])
        self.lanes[key(lane)].reached_end(len(self.produced[lane]))

    def release(self) -> list[Record]:
        """What leaves now, noted."""
        released = self.lanes.release(NOW)
        self.left += released
        for (_, number), full in self.lanes.throttle():
            (self.paused.add if full else self.paused.remove)(int(number))
        return released

    def ask(self, seconds: float) -> list[Record]:
        """What leaves in a time in which nothing is delivered."""
        released = []
        for _ in range(round(seconds / LOOK)):
            self.clock.seconds += LOOK
            released += self.release()
        return released

    def finish(self) -> None:
        """Delivers all that there is, and waits."""
        while any(self.lanes[key(i)].read_to < len(self.produced[i]) for i in range(self.number)):
            for lane in range(self.number):
                self.deliver(lane)
            self.ask(LOOK)
        for lane in range(self.number):
            self.reach_end(lane)
        self.ask(SETTLING + 2 * LOOK)


def key(lane: int) -> PartitionId:
    return ("transactions", lane)


def leads(records: Sequence[Record]) -> dict[Record, int]:
    """Each record's lead: the newest time of its lane up to it."""
    newest: dict[int, int] = {}
    result = {}
    for record in records:
        newest[record.lane] = max(newest.get(record.lane, 0), record.time or 0)
        result[record] = newest[record.lane]
    return result


@contextmanager
def partitions(number: int) -> Iterator[Partitions]:
    clock = Clock()
    with patch.object(module, "time", clock):
        yield Partitions(number, clock)


ancient = st.integers(1, 40)
live = st.integers(NOW - LIVE, NOW - LIVE + 40)
backlogs = st.lists(st.lists(st.one_of(ancient, live, st.none()), max_size=12), min_size=1, max_size=4)
polls = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=30)


@given(backlogs, polls)
def test_a_backlog_leaves_merged_by_lead_whatever_the_polls_give(
    backlog: list[list[int | None]], polls: list[tuple[int, int]]
) -> None:
    with partitions(len(backlog)) as kafka:
        for lane, times in enumerate(backlog):
            kafka.produce(lane, *times)
        for lane, at_most in polls:
            kafka.deliver(lane % len(backlog), at_most)
            kafka.release()
        kafka.finish()
        everything = [record for records in kafka.produced for record in records]
        of_record = leads(everything)
        assert [of_record[record] for record in kafka.left] == sorted(of_record.values())
        assert sorted(kafka.left, key=lambda r: (r.lane, r.offset)) == everything
        for lane, records in enumerate(kafka.produced):
            assert [record for record in kafka.left if record.lane == lane] == records
        assert kafka.lanes.offsets() == {key(i): len(times) for i, times in enumerate(backlog)}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(0, 2), st.one_of(ancient, live)),
        st.tuples(st.just("deliver"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("ask"), st.just(0), st.sampled_from([1, 3, 30, 300])),
        st.tuples(st.just("stall"), st.just(0), st.sampled_from([1, 100, 10_000])),
    ),
    max_size=60,
)


@given(actions)
def test_whatever_happens_no_record_is_lost_or_doubled_or_overtakes_one_of_its_lane(
    actions: list[tuple[str, int, int]],
) -> None:
    with partitions(3) as kafka:
        marks: list[tuple[int, int]] = []  # the slowest lane's lead, and how many had left by then
        waited = 0.0
        for action, lane, value in actions:
            if action == "produce":
                kafka.produce(lane, value)
            elif action == "deliver":
                kafka.deliver(lane, value)
            elif action == "ask":
                kafka.ask(value * LOOK)
                waited += value * LOOK
            else:
                kafka.clock.seconds += value
            kafka.release()
            if waited < IDLE / 2:
                marks.append((kafka.lanes.slowest("transactions"), len(kafka.left)))
            saved = kafka.lanes.offsets()
            assert saved == {key(i): sum(record.lane == i for record in kafka.left) for i in range(3)}
        kafka.finish()
        for lane, produced in enumerate(kafka.produced):
            assert [record for record in kafka.left if record.lane == lane] == produced
        of_record = leads([record for produced in kafka.produced for record in produced])
        assert kafka.lanes.leads() == {
            key(i): max((of_record[record] for record in produced), default=0)
            for i, produced in enumerate(kafka.produced)
        }
        for slowest, gone in marks:
            assert all(of_record[record] >= slowest for record in kafka.left[gone:])


def test_a_lane_behind_holds_the_others_and_one_at_its_end_does_not() -> None:
    with partitions(2) as kafka:
        kafka.produce(0, NOW - 3, NOW - 2, NOW - 1)
        kafka.produce(1, NOW - 5, NOW - 2, NOW)
        kafka.deliver(0)
        assert kafka.release() == []  # nothing is known of the other one
        kafka.deliver(1, at_most=1)
        assert [r.time for r in kafka.release()] == [NOW - 5]
        kafka.deliver(1, at_most=1)
        assert [r.time for r in kafka.release()] == [NOW - 3, NOW - 2, NOW - 2]
        kafka.deliver(1)
        assert [r.time for r in kafka.release()] == [NOW - 1, NOW]
        kafka.produce(0, NOW + 7)
        kafka.deliver(0)
        assert [r.time for r in kafka.release()] == [NOW + 7]


def test_history_waits_a_moment_for_a_lane_that_was_just_read_to_its_end_and_what_is_live_does_not() -> None:
    old, new = NOW - LIVE - 1, NOW - LIVE
    with partitions(2) as kafka:
        kafka.produce(0, old, new)
        kafka.produce(1, old - 1)
        kafka.deliver(0)
        kafka.deliver(1)
        assert kafka.ask(SETTLING - LOOK) == [(1, 0, old - 1)]
        assert kafka.ask(2 * LOOK) == [(0, 0, old), (0, 1, new)]
    with partitions(2) as kafka:
        kafka.produce(0, new)
        kafka.produce(1, old - 1)
        kafka.deliver(0)
        kafka.deliver(1)
        assert kafka.release() == [(1, 0, old - 1), (0, 0, new)]


def test_a_lane_that_need_not_settle_holds_nobody_at_its_end() -> None:
    with patch.object(module, "time", Clock()):
        lanes = Lanes({key(0): Lane[str](unused, 0, 0, settles=True), ("labels", 0): Lane(unused, 0, 0, settles=False)})
        lanes.delivers(("labels", 0)).add(0, 5, "label")
        lanes.delivers(key(0)).add(0, 10, "transaction")
        for _, lane in lanes.moved():
            lane.at_end = True
        assert lanes.release(NOW) == ["label", "transaction"]


def test_records_of_one_instant_leave_in_the_order_of_the_lanes() -> None:
    with partitions(3) as kafka:
        for lane in (2, 0, 1):
            kafka.produce(lane, 10)
            kafka.deliver(lane)
        assert [record.lane for record in kafka.ask(SETTLING + LOOK)] == [0, 1, 2]


def test_a_lane_with_records_that_delivers_none_is_given_up_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    with partitions(2) as kafka:
        kafka.produce(1, 1, 2)
        kafka.deliver(1, at_most=1)
        for time in range(5, 5 + round(PATIENCE) + 1):
            kafka.produce(0, time)  # the others go on, so it is not Kafka that is away
            kafka.deliver(0)
            kafka.ask(1.0)
            assert len(kafka.left) == 1 or time > PATIENCE + 2
        assert [r.time for r in kafka.left if r.lane == 0] == [*range(5, 5 + round(PATIENCE) + 1)]
        (warning,) = caplog.records
        assert (warning.levelname, vars(warning)["partition"]) == ("WARNING", key(1))
        assert "delivers nothing" in warning.getMessage()
        kafka.deliver(1)
        assert kafka.ask(SETTLING + LOOK) == [(1, 1, 2)]


def test_where_nobody_delivers_the_others_wait_much_longer_but_not_for_ever() -> None:
    with partitions(2) as kafka:
        kafka.produce(0, NOW)
        kafka.deliver(0)
        assert kafka.ask(PATIENCE * OUTAGE_PATIENCE * 0.9) == []
        assert kafka.ask(PATIENCE * OUTAGE_PATIENCE * 0.1 + OUTAGE) == [(0, 0, NOW)]


@pytest.mark.parametrize("asked", [0.0, PATIENCE * 3])
def test_an_outage_does_not_disorder_the_lanes(asked: float) -> None:
    """Whether the reader was stalled (nobody asked) or asked in vain: it is Kafka that was away, not the lane."""
    with partitions(2) as kafka:
        kafka.produce(0, 100, 300)
        kafka.produce(1, 50, 60, 400)
        for lane in range(2):
            kafka.deliver(lane, at_most=1)
        assert kafka.release() == [(1, 0, 50)]
        kafka.clock.seconds += 60
        assert kafka.ask(asked) == []
        kafka.deliver(0)
        assert kafka.release() == []
        kafka.deliver(1)
        kafka.finish()
        assert [record.time for record in kafka.left] == [50, 60, 100, 300, 400]


def test_a_lane_that_was_given_up_and_has_then_reached_its_end_holds_nobody() -> None:
    with partitions(2) as kafka:
        kafka.ask(PATIENCE * OUTAGE_PATIENCE + OUTAGE)  # Kafka is away
        for lane in range(2):
            kafka.reach_end(lane)  # and back, with nothing to read
        kafka.ask(5.0)
        kafka.produce(0, NOW)
        kafka.deliver(0)
        assert kafka.release() == [(0, 0, NOW)]


def test_a_full_lane_is_paused_and_resumed_and_then_gets_time_to_deliver() -> None:
    with partitions(2) as kafka:
        kafka.produce(0, *range(2, BUFFERED + 12))
        kafka.produce(1, 1, 1, BUFFERED + 5)
        kafka.deliver(0, at_most=BUFFERED - 1)
        kafka.release()
        assert kafka.paused == set()
        kafka.deliver(0, at_most=1)
        kafka.release()
        assert kafka.paused == {0}
        for _ in range(3):
            kafka.ask(PATIENCE * 0.7)
            kafka.deliver(1, at_most=1)
        released = kafka.release()
        assert len(released) == BUFFERED
        assert kafka.paused == set()
        # It lies behind the other one, and had no chance to deliver in all that time.
        for number in range(round(PATIENCE) - 1):
            assert kafka.ask(0.9) == []
            kafka.produce(1, BUFFERED + 20 + number)
            kafka.deliver(1)
        kafka.deliver(0)
        times = [r.time for r in kafka.ask(SETTLING + LOOK)]
        assert times == sorted(times, key=lambda time: time or 0)
        assert len(times) == 10 + round(PATIENCE)


def test_lanes_with_more_than_their_share_are_paused_until_half_of_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFERED", 12)
    with partitions(3) as kafka:
        kafka.produce(0, *range(10, 30))
        kafka.produce(1, 5, 6, 7)
        kafka.produce(2, 12, 16, 40)
        kafka.deliver(0, at_most=8)
        kafka.deliver(1)
        kafka.ask(SETTLING + LOOK)
        assert kafka.paused == set()
        kafka.deliver(0, at_most=1)
        kafka.ask(LOOK)
        assert kafka.paused == {0}, "the others hold less than their share"
        kafka.deliver(2, at_most=1)
        assert [r.time for r in kafka.ask(SETTLING + LOOK)] == [5, 6, 7, 10, 11, 12, 12]
        assert kafka.paused == {0}
        kafka.deliver(2, at_most=1)
        assert [r.time for r in kafka.ask(LOOK)] == [13, 14, 15, 16, 16]
        assert kafka.paused == set()


def test_slowest_counts_lanes_of_the_topic_that_are_not_silent() -> None:
    with partitions(3) as kafka:
        assert kafka.lanes.slowest("transactions") == 0
        assert kafka.lanes.slowest("labels") == 0
        for lane, time in enumerate((NOW - 30, NOW - 20, NOW - 10)):
            kafka.produce(lane, time)
            kafka.deliver(lane)
        kafka.release()
        assert kafka.lanes.slowest("transactions") == NOW - 30
        kafka.ask(IDLE / 2)
        kafka.produce(1, NOW - 5)
        kafka.produce(2, NOW - 4)
        kafka.deliver(1)
        kafka.deliver(2)
        kafka.release()
        assert kafka.lanes.slowest("transactions") == NOW - 30
        kafka.clock.seconds += 100 * IDLE  # of a stall nobody is to blame
        kafka.release()
        assert kafka.lanes.slowest("transactions") == NOW - 30
        kafka.ask(IDLE / 2 + 1)
        assert kafka.lanes.slowest("transactions") == NOW - 5
        kafka.ask(IDLE)
        assert kafka.lanes.slowest("transactions") == 0


def test_slowest_counts_a_silent_lane_whose_records_wait_for_labels() -> None:
    clock = Clock()
    with patch.object(module, "time", clock):
        first, second, labels = key(0), key(1), ("labels", 0)
        lanes = Lanes({place: Lane[str](unused, 0, 0, settles=False) for place in (labels, first, second)})
        for place, time in ((first, NOW - 80), (second, NOW - 60)):
            lanes.delivers(place).add(0, time, "known")
        for place in (first, second, labels):
            lanes[place].reached_end(0)
        assert lanes.release(NOW) == ["known", "known"]
        lanes.delivers(first).add(1, NOW - 70, "waits")
        lanes[first].reached_end(0)
        for second_number in range(round(IDLE) + 2):
            lanes.delivers(labels).add(second_number, NOW - 90, "label")  # from now on there are more of them to read
            lanes.delivers(second).add(second_number + 1, NOW - 50, "waits too")
            lanes[labels].at_end = False
            for _ in range(round(1 / LOOK)):
                clock.seconds += LOOK
                assert set(lanes.release(NOW)) <= {"label"}
        assert lanes.slowest("transactions") == NOW - 80


def test_a_lane_goes_on_from_where_it_was_saved() -> None:
    with patch.object(module, "time", Clock()):
        saved = {key(0): Lane[str](unused, 7, 50, settles=True), key(1): Lane[str](unused, 3, 40, settles=True)}
        lanes = Lanes(saved)
        assert lanes.offsets() == {key(0): 7, key(1): 3}
        assert lanes.leads() == {key(0): 50, key(1): 40}
        assert lanes.slowest("transactions") == 40
        lanes.delivers(key(0)).add(7, 45, "late")
        lanes.delivers(key(1)).add(3, 60, "next")
        assert lanes.release(NOW) == ["late"]
        assert lanes.leads() == {key(0): 50, key(1): 40}


def test_marks_at_the_end_that_no_record_reaches_are_passed() -> None:
    """Or else retention could seem to have deleted records that were never there."""
    lanes = Lanes({key(0): Lane[str](unused, 5, 0, settles=False)})
    lanes[key(0)].reached_end(7)
    assert lanes.offsets() == {key(0): 7}
    lanes.delivers(key(0)).add(7, NOW, "waits")
    lanes[key(0)].reached_end(9)
    assert lanes.offsets() == {key(0): 7}
    assert lanes.release(NOW) == ["waits"]
    lanes[key(0)].reached_end(9)
    assert lanes.offsets() == {key(0): 9}
