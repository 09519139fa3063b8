"""The injector: intended instants stay where they are, whatever happens while it sends."""

from __future__ import annotations

import pytest

from bench.schedule import Schedule


class Clock:
    """A clock that only sleeping and sending move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def sent_at(schedule: Schedule, clock: Clock, stalls: dict[int, float]) -> list[float]:
    found: list[float] = []

    def send(nth: int) -> None:
        assert nth == len(found), "each once, in order"
        found.append(clock.now)
        clock.now += stalls.get(nth, 0.0)

    schedule.run(send, clock, clock.sleep)
    return found


def test_each_event_is_due_at_its_place_in_time() -> None:
    schedule = Schedule(100.0, 50.0, 200)
    assert [schedule.due(nth) for nth in (0, 1, 50)] == pytest.approx([100.0, 100.02, 101.0])
    assert [schedule.owed(now) for now in (99.0, 100.0, 101.0, 1000.0)] == [0, 1, 51, 200]


def test_without_a_stall_events_go_when_they_are_due() -> None:
    schedule = Schedule(101.0, 100.0, 300)
    found = sent_at(schedule, Clock(), {})
    assert found == pytest.approx([schedule.due(nth) for nth in range(300)], abs=0.0011), "within a tick"


def test_a_stall_delays_what_was_due_in_it_and_nothing_after_it() -> None:
    schedule = Schedule(100.0, 100.0, 300)
    found = sent_at(schedule, Clock(), {50: 1.0})
    late = [at - schedule.due(nth) for nth, at in enumerate(found)]
    assert max(late[:51]) < 0.0011
    assert late[51] == pytest.approx(0.99), "the first that had to wait has waited for nearly all of the stall"
    assert late[100] == pytest.approx(0.5, abs=0.011)
    assert max(late[152:]) < 0.0011, "the schedule has not slipped"
    assert sum(value > 0.005 for value in late) == pytest.approx(100, abs=2)
