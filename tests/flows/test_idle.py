"""Keys of no more use: which are named, when, and how many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import stop
from flows.idle import SWEEP_AT_MOST, SWEEP_EVERY, IdleKeys, IdlePartition, IdleSource

REACH = 100


@pytest.fixture(autouse=True)
def not_stopped() -> Iterator[None]:
    stop.requested.clear()
    yield
    stop.requested.clear()


def test_a_key_is_due_once_no_window_can_reach_its_newest_event() -> None:
    idle = IdleKeys(REACH)
    idle.touch("a", 50)
    idle.touch("b", 60)
    idle.advance(150)
    assert idle.due(10) == []
    idle.advance(151)
    assert idle.due(10) == ["a"]
    assert idle.due(10) == []
    idle.advance(1)  # a watermark never falls
    idle.advance(161)
    assert idle.due(10) == ["b"]
    assert len(idle) == 0


def test_a_key_touched_again_or_forgotten_is_not_due() -> None:
    idle = IdleKeys(REACH)
    for key in ("a", "b", "c"):
        idle.touch(key, 10)
    idle.touch("a", 200)
    idle.forget("b")
    idle.forget("never seen")
    idle.advance(250)
    assert idle.due(10) == ["c"]
    assert len(idle) == 1


def test_no_more_than_asked_for_at_a_time() -> None:
    idle = IdleKeys(REACH)
    for number in range(25):
        idle.touch(str(number), number)
    idle.advance(1000)
    assert [len(idle.due(10)) for _ in range(4)] == [10, 10, 5, 0]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("touch"), st.integers(0, 5), st.integers(0, 300)),
            st.tuples(st.just("advance"), st.just(0), st.integers(0, 500)),
            st.tuples(st.just("forget"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("due"), st.just(0), st.integers(1, 3)),
        ),
        max_size=60,
    )
)
def test_only_keys_of_no_use_are_named_and_all_of_them_in_the_end(steps: list[tuple[str, int, int]]) -> None:
    idle = IdleKeys(REACH)
    newest: dict[str, int] = {}
    watermark = 0
    for step, number, value in steps:
        key = str(number)
        if step == "touch":
            idle.touch(key, value)
            newest[key] = value
        elif step == "advance":
            idle.advance(value)
            watermark = max(watermark, value)
        elif step == "forget":
            idle.forget(key)
            newest.pop(key, None)
        else:
            for due in idle.due(value):
                assert newest.pop(due) < watermark - REACH
        assert len(idle) == len(newest)
        for key_newest in newest.values():
            assert idle.is_past(key_newest) == (key_newest < watermark - REACH)
    idle.advance(10_000)
    assert set(idle.due(100)) == newest.keys()


def test_the_source_calls_up_what_is_due_once_a_second() -> None:
    idle = IdleKeys(REACH)
    for number in range(SWEEP_AT_MOST + 1):
        idle.touch(str(number), number)
    partition = IdleSource(idle).build("idle", 0, 1)
    assert isinstance(partition, IdlePartition)
    assert partition.next_awake() <= datetime.now(UTC)
    assert list(partition.next_batch()) == []
    idle.advance(1_000_000)
    assert list(partition.next_batch()) == [(str(number), None) for number in range(SWEEP_AT_MOST)]
    wait = partition.next_awake() - datetime.now(UTC)
    assert SWEEP_EVERY - timedelta(milliseconds=500) < wait <= SWEEP_EVERY
    assert list(partition.next_batch()) == [(str(SWEEP_AT_MOST), None)]


def test_the_source_ends_when_the_flow_stops() -> None:
    partition = IdleSource(IdleKeys(REACH)).build("idle", 0, 1)
    stop.requested.set()
    with pytest.raises(StopIteration):
        partition.next_batch()
