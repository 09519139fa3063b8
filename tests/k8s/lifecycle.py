"""Rules of a pod's life that need no clock but the one they are given: probes' counts, back-off, what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tests.k8s.api import Object

# A kubelet waits 0, 10, 20, 40 ... 300 seconds before it restarts a container, and begins at 0 again after ten minutes
# without an end. Here all is thirty times as fast.
BACK_OFF: Final = 1 / 3
LONGEST_BACK_OFF: Final = 10.0
FORGIVEN: Final = 20.0  # seconds of running after which the next failure counts as the first


@dataclass(slots=True)
class BackOff:
    """How long a container that has ended waits before it is started again."""

    _seconds: float = 0.0

    def after(self, ran: float) -> float:
        """The wait after an end, in seconds; ``ran``: for how long it had run."""
        if ran >= FORGIVEN:
            self._seconds = 0.0
        wait = self._seconds
        self._seconds = min(max(BACK_OFF, 2 * self._seconds), LONGEST_BACK_OFF)
        return wait


class Tally:
    """A probe's verdict: None until the thresholds say otherwise."""

    def __init__(self, probe: Object, verdict: bool | None) -> None:
        self._needed = {True: probe.get("successThreshold", 1), False: probe.get("failureThreshold", 3)}
        self._last: bool | None = None
        self._times = 0
        self.verdict = verdict

    def add(self, success: bool) -> None:
        """One more result."""
        self._times = self._times + 1 if success is self._last else 1
        self._last = success
        if self._times >= self._needed[success]:
            self.verdict = success


@dataclass(slots=True)
class ContainerState:
    """What is known of a container. ``ended``: exit status, when it began and when it ended (``time.time``)."""

    name: str
    image: str
    waiting: str = "ContainerCreating"
    message: str = ""
    started_at: float | None = None
    ended: tuple[int, float, float] | None = None
    before: tuple[int, float, float] | None = None
    started: bool = False
    ready: bool = False
    restarts: int = 0

    def report(self) -> Object:
        """A ContainerStatus."""
        state: Object
        if self.started_at is not None:
            state = {"running": {"startedAt": rfc3339(self.started_at)}, "waiting": None, "terminated": None}
        elif self.ended is not None and not self.waiting:
            state = {"terminated": _terminated(self.ended), "waiting": None, "running": None}
        else:
            state = {"waiting": {"reason": self.waiting, "message": self.message}, "running": None, "terminated": None}
        return {
            "name": self.name,
            "image": self.image,
            "imageID": f"local/{self.image}",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state,
            "lastState": {"terminated": _terminated(self.before)} if self.before else {},
        }


def phase(policy: str, initialised: bool, states: Sequence[ContainerState]) -> str:
    """The pod's phase: Pending, Running, Succeeded or Failed."""
    if all(state.ended is not None and not state.waiting and state.started_at is None for state in states):
        statuses = [state.ended[0] for state in states if state.ended is not None]
        if policy != "Always" and not any(statuses):
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    begun = initialised and all(state.started_at is not None or state.ended or state.before for state in states)
    return "Running" if begun else "Pending"


def statuses(initialised: bool, ready: bool, completed: bool) -> dict[str, bool]:
    """The conditions that a kubelet is to tell of."""
    return {
        "PodReadyToStartContainers": not completed,
        "Initialized": initialised,
        "ContainersReady": ready,
        "Ready": ready,
    }


def conditions(found: Mapping[str, bool], since: Mapping[str, float], completed: bool) -> list[Object]:
    """The same for the API server; ``since``: when each took its present status."""
    reason = {"reason": "PodCompleted"} if completed else {}
    return [
        {"type": kind, "status": str(status), "lastTransitionTime": rfc3339(since[kind]), **reason}
        for kind, status in found.items()
    ]


def exit_status(returned: int) -> int:
    """A process's exit status as Kubernetes reports it: 128 and the signal where one ended it."""
    return 128 - returned if returned < 0 else returned


def rfc3339(moment: float) -> str:
    """Of ``time.time``; Kubernetes keeps whole seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _terminated(ended: tuple[int, float, float]) -> Object:
    status, began, finished = ended
    return {
        "exitCode": status,
        "reason": "Error" if status else "Completed",
        "startedAt": rfc3339(began),
        "finishedAt": rfc3339(finished),
    }
