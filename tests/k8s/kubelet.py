"""A small kubelet: a Node that is Ready, and the pods that are bound to it as processes of this machine.

What it does, it does as a real one. It does without images, cgroups, seccomp, NetworkPolicies and addresses of Services
(names lead to pods); what else a pod may ask for and it does not know, it refuses.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Final

from tests.k8s.api import Mirror, Object, Refused
from tests.k8s.lifecycle import rfc3339
from tests.k8s.network import MACHINE
from tests.k8s.pod import Machine, Pod

HEARTBEAT: Final = 5.0  # seconds
LEASE: Final = 40  # seconds after which the controllers give up a node that says nothing
ROOM: Final = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi"}  # more than is asked for


class Kubelet:
    """One node; several may run on one machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.name = name
        self.pods: dict[str, Pod] = {}  # all there ever were, by uid
        self._machine = machine
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._mirror = Mirror(machine.api, f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}", self._changed)
        self._heart = threading.Thread(target=self._beat, name=f"heart {name}", daemon=True)

    def start(self) -> None:
        """The node is there and Ready; its pods run from now on."""
        api = self._machine.api
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        api.create("/api/v1/nodes", {"metadata": {"name": self.name, "labels": labels}, "spec": {}})
        lease = {"holderIdentity": self.name, "leaseDurationSeconds": LEASE, "renewTime": _now()}
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        api.create(leases, {"metadata": {"name": self.name, "namespace": "kube-node-lease"}, "spec": lease})
        self._tell()
        self._heart.start()
        self._mirror.start()

    def running(self, name: str, namespace: str = "vigie") -> Pod | None:
        """The pod of that name that runs here now."""
        with self._lock:
            found = [pod for pod in self.pods.values() if (pod.name, pod.namespace) == (name, namespace)]
        return next((pod for pod in found if pod.is_alive()), None)

    def check(self) -> None:
        """Raises what has ended one of its threads, if anything has."""
        with self._lock:
            failures = [pod.failure for pod in self.pods.values()]
        for failure in (self._mirror.failure, *failures):
            if failure is not None:
                raise failure

    def stop(self) -> None:
        """Ends the pods at once."""
        self._stopping.set()
        self._mirror.stop()
        with self._lock:
            pods = list(self.pods.values())
        for pod in pods:
            pod.gone = True
        for pod in pods:
            pod.join()

    def _changed(self, items: dict[str, Object]) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            for uid, item in items.items():
                if uid in self.pods:
                    self.pods[uid].item = item
                else:
                    self.pods[uid] = Pod(self._machine, item)
                    self.pods[uid].start()
            for uid, pod in self.pods.items():
                if uid not in items:
                    pod.gone = True

    def _beat(self) -> None:
        lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"
        while not self._stopping.wait(HEARTBEAT):
            with suppress(OSError, Refused):  # it is told again soon
                self._machine.api.patch(lease, {"spec": {"renewTime": _now()}})

    def _tell(self) -> None:
        """The node's status."""
        now = rfc3339(time.time())
        healthy = {"MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False", "Ready": "True"}
        self._machine.api.patch(
            f"/api/v1/nodes/{self.name}/status",
            {
                "status": {
                    "conditions": [
                        {"type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now}
                        for kind, status in healthy.items()
                    ],
                    "capacity": ROOM,
                    "allocatable": ROOM,
                    "addresses": [
                        {"type": "InternalIP", "address": MACHINE},
                        {"type": "Hostname", "address": self.name},
                    ],
                    "nodeInfo": {
                        "kubeletVersion": "v1.34.2",
                        "osImage": "this machine",
                        "kernelVersion": os.uname().release,
                        "containerRuntimeVersion": "processes://1",
                        "operatingSystem": "linux",
                        "architecture": "amd64",
                        "bootID": "",
                        "machineID": "",
                        "systemUUID": "",
                        "kubeProxyVersion": "",
                    },
                }
            },
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
