"""One container of a pod over its life: started, probed, restarted, stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.k8s.api import Object, Refused
from tests.k8s.container import Container, Plan
from tests.k8s.lifecycle import BackOff, ContainerState
from tests.k8s.probes import Prober
from tests.k8s.spec import Unready

AGAIN = 0.5  # seconds until something that is missing is looked for again


class Keeper:
    """``policy``: of restarts. ``plan``: makes the plan of a start. ``grace``: seconds between SIGTERM and SIGKILL."""

    def __init__(
        self, spec: Object, policy: str, plan: Callable[[], Plan], address: str, folder: Path, grace: float
    ) -> None:
        self._spec = spec
        self._policy = policy
        self._plan = plan
        self._address = address
        self._folder = folder
        self._grace = grace
        self._back_off = BackOff()
        self._due = 0.0
        self._kill_at: float | None = None
        self._probers: dict[str, Prober] = {}
        self._stopping = False
        self.container: Container | None = None
        self.state = ContainerState(spec["name"], spec["image"])
        self.events: list[str] = []  # what a kubelet would tell of as events

    @property
    def done(self) -> bool:
        """Whether it has ended for good."""
        return self.container is None and (self._stopping or (self.state.ended is not None and not self.state.waiting))

    def step(self) -> None:
        """What is to be done now."""
        now = time.time()
        if self.container is None:
            if not self.done and now >= self._due:
                self._start(now)
        elif (status := self.container.poll()) is not None:
            self._ended(status, now)
        elif self._kill_at is not None and now >= self._kill_at:
            self.container.send(signal.SIGKILL)
        elif self._kill_at is None:
            self._judge(now)

    def stop(self, grace: float) -> None:
        """Ends it for good: the hook, SIGTERM, and SIGKILL after that many seconds."""
        begin = time.time()
        first, self._stopping = not self._stopping, True
        if self.container is None:
            return
        self._kill_at = min(self._kill_at or begin + grace, begin + grace)
        if first:
            for prober in self._probers.values():
                prober.stop()
            self.state.ready = False
            self._before_stop(grace)
            self.container.send(signal.SIGTERM)

    def _before_stop(self, grace: float) -> None:
        hook = self._spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            time.sleep(min(hook["sleep"]["seconds"], grace))
        elif "exec" in hook and self.container is not None:
            self.container.execute(hook["exec"]["command"], grace)

    def _start(self, now: float) -> None:
        state = self.state
        try:
            plan = self._plan()
        except (Unready, Refused, OSError) as reason:
            state.waiting, state.message = "CreateContainerConfigError", str(reason)
            self._due = now + AGAIN
            return
        if state.ended is not None:
            state.restarts += 1
        self.container = Container(plan, self._folder / f"{state.name}-{state.restarts}.log")
        state.started_at, state.waiting, state.message = now, "", ""
        self._kill_at = None
        if "startupProbe" in self._spec:
            self._probe("startupProbe", None)
        else:
            self._begin()

    def _begin(self) -> None:
        """It counts as started: the other probes begin."""
        self.state.started = True
        self.state.ready = "readinessProbe" not in self._spec
        for kind, verdict in (("readinessProbe", False), ("livenessProbe", True)):
            if kind in self._spec:
                self._probe(kind, verdict)

    def _probe(self, kind: str, verdict: bool | None) -> None:
        assert self.container is not None
        self._probers[kind] = Prober(self._spec[kind], self._spec, self.container, self._address, verdict)
        self._probers[kind].start()

    def _judge(self, now: float) -> None:
        assert self.container is not None
        verdicts = {kind: prober.verdict for kind, prober in self._probers.items()}
        if not self.state.started and verdicts.get("startupProbe"):
            self._probers.pop("startupProbe").stop()
            self._begin()
            return
        if "readinessProbe" in verdicts:
            self.state.ready = bool(verdicts["readinessProbe"])
        for kind in ("startupProbe", "livenessProbe"):
            if verdicts.get(kind) is False:
                self.events.append(f"{self.state.name} failed its {kind}: {self._probers[kind].last}")
                self.container.send(signal.SIGTERM)
                self._kill_at = now + self._grace

    def _ended(self, status: int, now: float) -> None:
        state = self.state
        assert state.started_at is not None
        for prober in self._probers.values():
            prober.stop()
        self._probers = {}
        began, state.started_at = state.started_at, None
        self.container = None
        state.ended = (status, began, now)
        state.ready = state.started = False
        if not self._stopping and (self._policy == "Always" or (self._policy == "OnFailure" and status)):
            wait = self._back_off.after(now - began)
            state.before = state.ended
            state.waiting, state.message = "CrashLoopBackOff", f"back-off {wait:g}s restarting failed container"
            self._due = now + wait
