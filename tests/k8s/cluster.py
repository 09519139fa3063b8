"""A whole cluster on this machine: control plane, nodes, volumes, and a Kafka that its pods reach as ``kafka``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from flows.local_kafka import LocalKafka, free_port
from tests.flows.running import ROOT
from tests.k8s import images, programs
from tests.k8s.api import Mirror, Object
from tests.k8s.container import Container, Image, Plan
from tests.k8s.control_plane import ControlPlane
from tests.k8s.hosts import Hosts
from tests.k8s.kubelet import Kubelet
from tests.k8s.network import MACHINE, Network
from tests.k8s.pod import Machine, Pod
from tests.k8s.spec import Identity

NAMESPACE: Final = "vigie"
NODES: Final = ("node-0", "node-1", "node-2")
VOLUMES: Final = 8
KAFKA_PORT: Final = 9092
COMPILING: Final = 300.0  # seconds


class Cluster:
    """As a context manager it runs for as long as the block; ``folder`` receives everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._stages = images.stages(images.DOCKERFILE.read_text(encoding="utf-8"))
        self._compiled = programs.CACHE / "compiled"
        self._stack = ExitStack()
        self.kubectl = programs.kubectl()
        self.kubelets: list[Kubelet] = []
        self.mirror: Mirror
        self.plane: ControlPlane
        self.broker: LocalKafka

    def __enter__(self) -> Self:
        with self._stack:
            network = self._stack.enter_context(Network())
            self.broker = self._stack.enter_context(self._kafka())
            self.plane = self._stack.enter_context(ControlPlane(programs.control_plane(), self.folder / "plane"))
            self._compile(network)
            hosts = Hosts()
            self.mirror = Mirror(self.plane.api, "/apis/discovery.k8s.io/v1/endpointslices", hosts.changed)
            self.mirror.start()
            self._stack.callback(self.mirror.stop)
            machine = Machine(self.plane.api, network, hosts, self.folder / "pods", self._image)
            for name in NODES:
                kubelet = Kubelet(machine, name)
                kubelet.start()
                self._stack.callback(kubelet.stop)
                self.kubelets.append(kubelet)
            self._offer_volumes()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def run(self, *words: str, status: int = 0, text: str | None = None) -> str:
        """A command as an operator types it, in the repository; what it prints. Fails where it ends otherwise."""
        environment = os.environ | {
            "KUBECONFIG": str(self.plane.kubeconfig),
            "PATH": f"{Path(self.kubectl).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=environment,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, (
            f"{' '.join(words)} ended with {done.returncode}, not {status}:\n{done.stdout}"
        )
        return done.stdout

    def pods(self) -> dict[str, Object]:
        """The scorers that the API server knows, by name."""
        chosen = "app.kubernetes.io%2Fname%3Dvigie,app.kubernetes.io%2Fcomponent%3Dscorer"
        listed = self.plane.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={chosen}")
        return {item["metadata"]["name"]: item for item in listed["items"]}

    def running(self, name: str) -> Pod:
        """The pod of that name on its node."""
        found = [pod for kubelet in self.kubelets if (pod := kubelet.running(name, NAMESPACE))]
        assert found, f"{name} runs nowhere"
        return found[-1]

    def kill(self, name: str) -> None:
        """kill -9 of the first process of that pod."""
        container = self.running(name).keepers[0].container
        assert container is not None
        container.send(signal.SIGKILL)

    def ends(self) -> Mapping[str, tuple[str, int]]:
        """Of each scorer that was there and is gone, by uid: its name, and the exit status of its last run."""
        pods = [pod for kubelet in self.kubelets for pod in kubelet.pods.values() if pod.name.startswith("vigie-")]
        return {
            pod.uid: (pod.name, pod.keepers[0].state.ended[0])
            for pod in pods
            if not pod.is_alive() and pod.keepers and pod.keepers[0].state.ended
        }

    def check(self) -> None:
        """Raises where a part of the cluster has failed."""
        self.plane.check()
        for kubelet in self.kubelets:
            kubelet.check()
        if self.mirror.failure is not None:
            raise self.mirror.failure

    def told(self) -> str:
        """What the pods say that run now, or were the last to end."""
        pods = [pod for kubelet in self.kubelets for pod in kubelet.pods.values()]
        pods.sort(key=lambda pod: pod.folder.stat().st_mtime if pod.folder.exists() else 0.0)
        return "\n".join(pod.log() for pod in pods[-4:])

    def lead_to_kafka(self) -> None:
        """The Service ``kafka`` leads to this machine's broker."""
        self.plane.api.create(
            f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices",
            {
                "metadata": {"name": "kafka-machine", "labels": {"kubernetes.io/service-name": "kafka"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [MACHINE]}],
                "ports": [{"name": "kafka", "port": KAFKA_PORT}],
            },
        )

    def volume(self, name: str) -> Path:
        """The directory of the volume that a claim of that name gets."""
        return self.folder / "volumes" / name

    def _kafka(self) -> LocalKafka:
        listener = {
            "listeners": f"PODS://{MACHINE}:{KAFKA_PORT}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PODS:PLAINTEXT",
        }
        return LocalKafka(free_port(), self.folder / "kafka", properties=listener)

    def _image(self, name: str) -> Image:
        return images.image(images.of_target(name, self._stages), self._compiled)

    def _compile(self, network: Network) -> None:
        """Runs what the Dockerfile runs to fill the cache of compiled features."""
        self._compiled.mkdir(parents=True, exist_ok=True)
        stage, place = self._stages["compiled"], network.add()
        plan = Plan(
            command=["sh", "-c", "\n".join(["set -e", *stage.runs])],
            environment=stage.environment,
            directory=stage.directory,
            identity=Identity(0, 0, (), read_only_root=False, may_gain_privileges=True, dropped=False),
            mounts=[],
            image=images.image(stage, self._compiled, fills=True),
            namespace=place.namespace,
            hostname="compiled",
            scratch=self.folder / "compiled",
        )
        log = self.folder / "compiled.log"
        container, give_up = Container(plan, log), time.monotonic() + COMPILING
        while (status := container.poll()) is None and time.monotonic() < give_up:
            time.sleep(0.05)
        container.send(signal.SIGKILL)
        assert status == 0, f"compiling the features ended with {status}:\n{log.read_text()}"
        network.remove(place)

    def _offer_volumes(self) -> None:
        """A storage class of volumes that are there already: directories, reached by every node like network disks."""
        api = self.plane.api
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        api.create(
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "metadata": {"name": "standard", "annotations": default},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            },
        )
        for name in ("models", "history", *(f"disk-{number}" for number in range(VOLUMES))):
            place = self.volume(name)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            spec: Object = {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "standard",
                "hostPath": {"path": str(place)},
            }
            if name in {"models", "history"}:
                spec["claimRef"] = {"namespace": NAMESPACE, "name": name}
            api.create("/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})
