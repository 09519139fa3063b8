"""Keys of no more use: which are named, when, and how many at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.idle import AT_MOST, IdleKeys
from flows.records import Tick

REACH = 100


def due(idle: IdleKeys, watermark: int = 0) -> list[str]:
    """The keys that a tick calls up."""
    called = idle.due(Tick(watermark))
    assert all(value is None for _, value in called)
    return [key for key, _ in called]


def test_a_key_is_due_once_no_window_can_reach_its_newest_event() -> None:
    idle = IdleKeys(REACH)
    idle.touch("a", 50)
    idle.touch("b", 60)
    idle.advance(150)
    assert due(idle) == []
    idle.advance(151)
    assert due(idle) == ["a"]
    assert due(idle) == []
    idle.advance(1)  # a watermark never falls
    idle.advance(161)
    assert due(idle) == ["b"]
    assert len(idle) == 0


def test_a_key_touched_again_or_forgotten_is_not_due() -> None:
    idle = IdleKeys(REACH)
    for key in ("a", "b", "c"):
        idle.touch(key, 10)
    idle.touch("a", 200)
    idle.forget("b")
    idle.forget("never seen")
    idle.advance(250)
    assert due(idle) == ["c"]
    assert len(idle) == 1


def test_a_tick_brings_the_watermark() -> None:
    idle = IdleKeys(REACH)
    idle.touch("a", 50)
    assert due(idle, 150) == []
    assert due(idle, 151) == ["a"]


def test_a_crowd_of_keys_is_called_up_in_portions() -> None:
    idle = IdleKeys(REACH)
    for number in range(2 * AT_MOST + 5):
        idle.touch(str(number), number)
    portions = [due(idle, 1_000_000) for _ in range(4)]
    assert [len(portion) for portion in portions] == [AT_MOST, AT_MOST, 5, 0]
    assert [key for portion in portions for key in portion] == [str(number) for number in range(2 * AT_MOST + 5)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("touch"), st.integers(0, 5), st.integers(0, 300)),
            st.tuples(st.just("advance"), st.just(0), st.integers(0, 500)),
            st.tuples(st.just("forget"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("due"), st.just(0), st.integers(0, 500)),
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
            watermark = max(watermark, value)
            for called in due(idle, value):
                assert newest.pop(called) < watermark - REACH
        assert len(idle) == len(newest)
        for key_newest in newest.values():
            assert idle.is_past(key_newest) == (key_newest < watermark - REACH)
    idle.advance(10_000)
    assert set(due(idle)) == newest.keys()
