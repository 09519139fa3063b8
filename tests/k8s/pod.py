"""One pod on its node, from its binding to its end."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.k8s import lifecycle, spec, volumes
from tests.k8s.api import Api, Object, Refused
from tests.k8s.container import Image, Plan
from tests.k8s.hosts import Hosts
from tests.k8s.keeper import Keeper
from tests.k8s.network import MACHINE, Network, Place

TICK: Final = 0.05  # seconds


@dataclass(frozen=True)
class Machine:
    """What all pods of this machine share. ``image``: what an image of that name holds."""

    api: Api
    network: Network
    hosts: Hosts
    folder: Path
    image: Callable[[str], Image]


class Pod(threading.Thread):
    """Runs a pod until it is deleted."""

    def __init__(self, machine: Machine, item: Object) -> None:
        meta = item["metadata"]
        super().__init__(name=meta["name"], daemon=True)
        self.uid, self.namespace = meta["uid"], meta["namespace"]
        self.item = item
        self.gone = False  # from the API, without having been asked to end: it ends at once
        self.failure: BaseException | None = None
        self.keepers: list[Keeper] = []
        self.folder = machine.folder / f"{self.namespace}_{self.name}_{self.uid}"
        self.ip = ""
        self._machine = machine
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self._place: Place | None = None
        self._initial: list[Keeper] = []
        self._initialised = False
        self._reported: Object | None = None
        self._since: dict[str, tuple[bool, float]] = {}
        self._begun = lifecycle.rfc3339(time.time())
        self._scratch = 0

    def run(self) -> None:
        """The thread."""
        try:
            self._live()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._leave()

    def log(self) -> str:
        """The end of what its containers have printed, each start apart."""
        files = sorted(self.folder.glob("*.log"), key=lambda file: file.stat().st_mtime)
        return "\n".join(
            f"--- {self.name} {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files[-3:]
        )

    def _live(self) -> None:
        spec.check(self.item)
        self.folder.mkdir(parents=True)
        self._place = self._machine.network.add()
        self.ip = self._place.address
        self._machine.hosts.add(self.uid, self.folder / "hosts", self.item, self.ip)
        own, policy = self.item["spec"], self.item["spec"]["restartPolicy"]
        grace = float(own.get("terminationGracePeriodSeconds", 30))
        first = "Never" if policy == "Never" else "OnFailure"
        self._initial = [self._keeper(each, first, grace) for each in own.get("initContainers", [])]
        self.keepers = [self._keeper(each, policy, grace) for each in own["containers"]]
        while not self._step():
            time.sleep(TICK)
        self._leave()
        while not self.gone:
            if "deletionTimestamp" in self.item["metadata"]:
                self._forget()
                return
            time.sleep(TICK)

    def _keeper(self, container: Object, policy: str, grace: float) -> Keeper:
        return Keeper(container, policy, lambda: self._plan(container), self.ip, self.folder, grace)

    def _step(self) -> bool:
        """Does what is to be done now; whether the pod has ended."""
        meta = self.item["metadata"]
        every = [*self._initial, *self.keepers]
        stopping = self.gone or "deletionTimestamp" in meta
        if stopping:
            for keeper in every:
                keeper.stop(0.0 if self.gone else float(meta.get("deletionGracePeriodSeconds", 30)))
        for number, keeper in enumerate(self._initial):
            if all(earlier.done for earlier in self._initial[:number]):
                keeper.step()
        failed = any(keeper.done and keeper.state.ended and keeper.state.ended[0] for keeper in self._initial)
        self._initialised = not failed and all(keeper.done for keeper in self._initial)
        if self._initialised or stopping:
            for keeper in self.keepers:
                keeper.step()
        ended = failed or all(keeper.done for keeper in self.keepers)
        if not self.gone:
            self._report(failed)
        return ended

    def _plan(self, container: Object) -> Plan:
        machine, item = self._machine, self.item
        assert self._place is not None
        image = machine.image(container["image"])
        sources = volumes.prepare(machine.api, item, self.folder / "volumes")
        given = dict(image.environment) | {"HOSTNAME": self.name}
        if item["spec"].get("enableServiceLinks", True):
            given |= spec.service_links(machine.api.get(f"/api/v1/namespaces/{self.namespace}/services")["items"])

        def lookup(kind: str, name: str) -> dict[str, str] | None:
            return volumes.data(machine.api, self.namespace, kind, name)

        environment = spec.environment(item, container, self.ip, lookup, given)
        command = container.get("command") or image.command
        words = [spec.expand(word, environment) for word in [*command, *container.get("args", [])]]
        self._scratch += 1
        (self.folder / "resolv.conf").write_text("# no name server: all names are in the hosts file\n")
        files = [
            spec.Mount(str(self.folder / name), f"/etc/{name}", read_only=False) for name in ("hosts", "resolv.conf")
        ]
        return Plan(
            command=words,
            environment=environment,
            directory=container.get("workingDir") or image.directory,
            identity=spec.identity(item, container, image.user),
            mounts=[*files, *spec.mounts(container, sources)],
            image=image,
            namespace=self._place.namespace,
            hostname=self.name,
            scratch=self.folder / f"root-{self._scratch}",
        )

    def _report(self, failed: bool) -> None:
        """Tells the API server what has changed; one that does not answer is told later."""
        states = [keeper.state for keeper in self.keepers]
        phase = "Failed" if failed else lifecycle.phase(self.item["spec"]["restartPolicy"], self._initialised, states)
        completed = phase in {"Succeeded", "Failed"}
        ready = all(state.ready for state in states)
        found = lifecycle.statuses(self._initialised, ready, completed)
        now = time.time()
        for kind, holds in found.items():
            if self._since.get(kind, (None, 0.0))[0] is not holds:
                self._since[kind] = (holds, now)
        since = {kind: moment for kind, (_, moment) in self._since.items()}
        status: Object = {
            "phase": phase,
            "conditions": lifecycle.conditions(found, since, completed),
            "containerStatuses": [state.report() for state in states],
            "initContainerStatuses": [keeper.state.report() for keeper in self._initial],
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "hostIP": MACHINE,
            "hostIPs": [{"ip": MACHINE}],
            "startTime": self._begun,
        }
        if status == self._reported:
            return
        try:
            self._machine.api.patch(f"{self._path}/status", {"metadata": {"uid": self.uid}, "status": status})
        except Refused as refused:
            if refused.status not in {404, 409}:
                raise
            self.gone = refused.status == 404
        except OSError:
            return
        self._reported = status

    def _forget(self) -> None:
        try:
            self._machine.api.delete(self._path, self.uid)
        except Refused as refused:
            if refused.status not in {404, 409}:
                raise

    def _leave(self) -> None:
        """Leaves nothing on the machine but logs."""
        for keeper in [*self._initial, *self.keepers]:
            keeper.stop(0.0)
            while keeper.container is not None:
                keeper.step()
                time.sleep(TICK)
        place, self._place = self._place, None
        if place is not None:
            self._machine.hosts.remove(self.uid)
            self._machine.network.remove(place)
            for number in range(1, self._scratch + 1):
                (self.folder / f"root-{number}").rmdir()
            shutil.rmtree(self.folder / "volumes", ignore_errors=True)
