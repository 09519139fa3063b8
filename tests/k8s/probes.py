"""A container's probes: each one asks in a thread of its own, as a kubelet's do."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import closing

from tests.k8s.api import Object
from tests.k8s.container import Container
from tests.k8s.lifecycle import Tally
from tests.k8s.spec import Unsupported


class Prober(threading.Thread):
    """Asks until it is stopped. ``verdict``: what counts until the thresholds are reached."""

    def __init__(self, probe: Object, spec: Object, container: Container, address: str, verdict: bool | None) -> None:
        super().__init__(name=f"probe {spec['name']}", daemon=True)
        self._probe = probe
        self._spec = spec
        self._container = container
        self._address = address
        self._tally = Tally(probe, verdict)
        self._stopping = threading.Event()
        self.last = ""  # why it last failed
        if not {"httpGet", "tcpSocket", "exec"} & set(probe):
            raise Unsupported(f"this kubelet does not know the probe {probe}")

    @property
    def verdict(self) -> bool | None:
        """What the probe says; None where it has not said anything yet."""
        return self._tally.verdict

    def run(self) -> None:
        """The thread."""
        wait = self._probe.get("initialDelaySeconds", 0)
        while not self._stopping.wait(wait):
            self._tally.add(self._ask())
            wait = self._probe.get("periodSeconds", 10)

    def stop(self) -> None:
        """Asks no more."""
        self._stopping.set()

    def _ask(self) -> bool:
        timeout = float(self._probe.get("timeoutSeconds", 1))
        if "exec" in self._probe:
            return self._container.execute(self._probe["exec"]["command"], timeout)
        if "tcpSocket" in self._probe:
            try:
                socket.create_connection((self._address, self._port(self._probe["tcpSocket"])), timeout).close()
            except OSError as error:
                self.last = str(error)
                return False
            return True
        target = self._probe["httpGet"]
        asked = http.client.HTTPConnection(self._address, self._port(target), timeout=timeout)
        try:
            with closing(asked):
                asked.request("GET", target.get("path", "/"))
                answer = asked.getresponse()
                self.last = f"{answer.status} {answer.read(1_000).decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            self.last = str(error)
            return False
        return 200 <= answer.status < 400

    def _port(self, target: Object) -> int:
        wanted = target["port"]
        if isinstance(wanted, int):
            return wanted
        return next(int(port["containerPort"]) for port in self._spec["ports"] if port.get("name") == wanted)
