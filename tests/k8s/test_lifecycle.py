from __future__ import annotations

import pytest

from tests.k8s import lifecycle
from tests.k8s.lifecycle import BACK_OFF, FORGIVEN, LONGEST_BACK_OFF, BackOff, ContainerState, Tally

ENDED = (1, 10.0, 20.0)


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer_and_longer() -> None:
    back_off = BackOff()
    assert [back_off.after(1) for _ in range(4)] == [0, BACK_OFF, 2 * BACK_OFF, 4 * BACK_OFF]
    waits = [back_off.after(1) for _ in range(10)]
    assert waits[-1] == LONGEST_BACK_OFF
    assert back_off.after(FORGIVEN) == 0


def test_a_verdict_changes_after_so_many_equal_results_in_a_row() -> None:
    tally = Tally({"failureThreshold": 3, "successThreshold": 2}, verdict=True)
    verdicts = []
    for success in (False, False, True, False, False, False, True, True):
        tally.add(success)
        verdicts.append(tally.verdict)
    assert verdicts == [True] * 5 + [False, False, True]


@pytest.mark.parametrize(
    ("policy", "states", "phase"),
    [
        ("Always", [ContainerState("a", "x")], "Pending"),
        ("Always", [ContainerState("a", "x", waiting="", started_at=1.0)], "Running"),
        ("Always", [ContainerState("a", "x", waiting="CrashLoopBackOff", ended=ENDED, before=ENDED)], "Running"),
        ("Always", [ContainerState("a", "x", waiting="", started_at=1.0), ContainerState("b", "x")], "Pending"),
        ("Never", [ContainerState("a", "x", waiting="", ended=ENDED)], "Failed"),
        ("Never", [ContainerState("a", "x", waiting="", ended=(0, 1.0, 2.0))], "Succeeded"),
        ("OnFailure", [ContainerState("a", "x", waiting="", ended=(0, 1.0, 2.0))], "Succeeded"),
        ("OnFailure", [ContainerState("a", "x", waiting="", started_at=3.0, before=ENDED)], "Running"),
    ],
)
def test_the_phase_follows_from_the_containers(policy: str, states: list[ContainerState], phase: str) -> None:
    assert lifecycle.phase(policy, True, states) == phase


def test_a_container_reports_what_it_is_and_what_it_was() -> None:
    state = ContainerState("a", "x", waiting="", started_at=0.0, before=(137, 10.0, 20.0), restarts=1)
    report = state.report()
    assert report["state"]["running"] == {"startedAt": "1970-01-01T00:00:00Z"}
    assert report["lastState"]["terminated"]["exitCode"] == 137
    state.started_at, state.ended = None, ENDED
    assert state.report()["state"]["terminated"]["reason"] == "Error"
    state.waiting = "CrashLoopBackOff"
    assert state.report()["state"]["waiting"]["reason"] == "CrashLoopBackOff"


def test_a_signal_is_reported_as_128_and_its_number() -> None:
    assert [lifecycle.exit_status(returned) for returned in (0, 3, -9)] == [0, 3, 137]
