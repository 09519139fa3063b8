"""The runbook, command by command, on a cluster at work."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from tests.chaos import verifier
from tests.flows import bundles
from tests.flows.running import ROOT
from tests.k8s.api import Object
from tests.k8s.cluster import NAMESPACE, Cluster
from tests.k8s.traffic import Pause, Traffic

READY: Final = 180.0  # seconds until all pods are ready
TRAINED: Final = 900.0  # seconds until the first model is there
CALM: Final = 22.0  # seconds of work after which a kubelet has forgotten earlier ends
HARMLESS: Final = 10.0  # seconds for which something harmless is watched
UNSAFE: Final = """
apiVersion: v1
kind: Pod
metadata: {name: unsafe, namespace: vigie}
spec: {containers: [{name: unsafe, image: vigie-scorer, securityContext: {privileged: true}}]}
"""

Generation = dict[str, tuple[str, int]]  # of each pod: its uid, and how often its container was started again


@dataclass
class Report:
    """All that is to be told."""

    pauses: dict[str, list[Pause]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, float] = field(default_factory=dict)
    expected: verifier.Expected = field(default_factory=verifier.Expected)
    findings: verifier.Findings = field(default_factory=verifier.Findings)


class Scenario:
    """``kills``: how often each kind of end is repeated. A step that goes otherwise raises ``AssertionError``."""

    def __init__(self, cluster: Cluster, *, seed: int, rate: float, kills: int, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._seed = seed
        self._rate = rate
        self._kills = kills
        self._say = say
        self._traffic: Traffic | None = None
        self.report = Report()

    def run(self) -> Report:
        """All of it."""
        try:
            self._apply()
            self._first_model()
            self._another_model()
            self._begin()
            for number in range(self._kills):
                self._strike("kill -9 of vigie-0's process", 2, lambda: self._cluster.kill("vigie-0"))
                self._strike("kill -9 of vigie-1's process", 2, lambda: self._cluster.kill("vigie-1"))
                self._strike("kubectl delete pod vigie-1", 2, lambda: self._kubectl("delete", "pod", "vigie-1"))
                if number == 0:
                    self._scale_alone()
                self._strike("k8s/rescale 3", 3, lambda: self._command("k8s/rescale", "3"))
                self._strike("k8s/rescale 2", 2, lambda: self._command("k8s/rescale", "2"))
                self._strike("k8s/restart", 2, lambda: self._command("k8s/restart"))
            self._refused()
            self._drain()
            self._lose_volume()
            self._end()
        finally:
            if self._traffic is not None:
                self._traffic.stop()
        return self.report

    def _apply(self) -> None:
        """Every overlay is taken by the API server; an unsafe pod is not."""
        cluster = self._cluster
        with self._step("strict apply of every overlay"):
            namespace = str(ROOT / "k8s/overlays/local/namespace.yaml")
            cluster.run(cluster.kubectl, "apply", "--validate=strict", "-f", namespace)
            for overlay in sorted((ROOT / "k8s" / "overlays").iterdir()):
                words = ("apply", "--validate=strict", "--dry-run=server", "-k", str(overlay))
                said = cluster.run(cluster.kubectl, *words)
                assert "Warning" not in said, said
            said = cluster.run(cluster.kubectl, "apply", "-f", "-", status=1, text=UNSAFE)
            assert 'violates PodSecurity "restricted:latest"' in said, said
            cluster.lead_to_kafka()
            cluster.run(cluster.kubectl, "apply", "--validate=strict", "-k", "tests/k8s/overlay")
        with self._step("the topics Job"):
            self._kubectl("wait", "--for=condition=Complete", "job/vigie-topics", "--timeout=90s")

    def _first_model(self) -> None:
        """The local overlay trains one; pods that came before it wait, and work as soon as it is there."""
        with self._step("the first model, simulated and trained by the cluster itself"):
            self._kubectl("wait", "--for=condition=Complete", "job/vigie-model", f"--timeout={TRAINED:g}s")
        with self._step("two pods ready"):
            self._await_ready(2, {})

    def _another_model(self) -> None:
        """Published beside the first one, it is what the pods work with after k8s/restart."""
        with self._step("another model, taken up by k8s/restart"):
            before = self._generation()
            bundles.make(self._cluster.volume("models"))
            self._command("k8s/restart")
            self._await_ready(2, before)
            log = self._cluster.running("vigie-0").log()
            assert "model=test-1" in log, log

    def _begin(self) -> None:
        with self._step("the first score"):
            self._traffic = Traffic(self._cluster.broker.bootstrap_servers, seed=self._seed, rate=self._rate)
            self._traffic.start()
            self._await(lambda: self._scores_since(0.0), READY, "no score")

    def _strike(self, name: str, pods: int, act: Callable[[], object]) -> None:
        """Something after which all processes start anew: they do, and score again."""
        self._work(CALM)
        before = self._generation()
        cause = time.time()
        act()
        self._await_ready(pods, before)
        now = time.time()
        self._await(lambda: self._scores_since(now), READY, "no score")
        assert self._traffic is not None
        pause = self._traffic.pause(cause)
        self.report.pauses[name].append(pause)
        self._say(f"{name}: {pause.since:.1f} s until it scores again, {pause.silence:.1f} s without a score")

    def _scale_alone(self) -> None:
        """A pod too many says so, and changes nothing for the others."""
        with self._step("a bare kubectl scale does no harm"):
            before = self._generation()
            self._kubectl("scale", "statefulset/vigie", "--replicas=3")
            self._await(lambda: self._restarts("vigie-2") >= 2, READY, "vigie-2 does not end")
            begin = time.time()
            self._work(HARMLESS)
            assert self._traffic is not None
            said = self._cluster.running("vigie-2").log()
            assert "vigie-2 is pod 2 of 2: rescale with k8s/rescale 3" in said, said
            self._kubectl("scale", "statefulset/vigie", "--replicas=2")
            self._await(lambda: len(self._generation()) == 2, READY, "vigie-2 stays")
            assert self._generation() == before, "other pods were started anew"
            assert self._traffic.pause(begin).silence < 3, self._traffic.pause(begin)

    def _refused(self) -> None:
        """What must not be done is refused, and nothing changes."""
        with self._step("k8s/rescale refuses what it must"):
            before = self._generation()
            for words, status in ((("2",), 1), (("0",), 2), (("two",), 2), (("-n", "default", "3"), 1)):
                self._cluster.run("k8s/rescale", *words, status=status)
            assert self._generation() == before

    def _drain(self) -> None:
        """A node is emptied, as for maintenance; its pod comes back on another one."""
        pods = self._cluster.pods()
        node = str(pods["vigie-1"]["spec"]["nodeName"])
        words = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        self._strike("kubectl drain of vigie-1's node", 2, lambda: self._kubectl(*words))
        assert self._cluster.pods()["vigie-1"]["spec"]["nodeName"] != node
        self._kubectl("uncordon", node)

    def _lose_volume(self) -> None:
        """Vigie refuses an empty volume in place of the recovery store's, and fills it from the topics when told to."""
        self._work(CALM)
        with self._step("a lost recovery volume, filled from the topics"):
            self._stop()
            claim = self._cluster.plane.api.get(
                f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/recovery-vigie-0"
            )
            volume = self._cluster.volume(claim["spec"]["volumeName"])
            shutil.rmtree(volume / "recovery")
            self._kubectl("scale", "statefulset/vigie", "--replicas=2")
            self._await(lambda: self._restarts("vigie-0") >= 1, READY, "vigie-0 does not refuse an empty volume")
            said = self._cluster.running("vigie-0").log()
            assert "holds no states, but the group" in said, said
            self._stop()
            self._kubectl("create", "job", "--from=cronjob/vigie-restore", "vigie-restore-1")
            self._kubectl("wait", "--for=condition=Complete", "job/vigie-restore-1", "--timeout=120s")
            self._kubectl("scale", "statefulset/vigie", "--replicas=2")
            self._await_ready(2, {})
            now = time.time()
            self._await(lambda: self._scores_since(now), READY, "no score")
        self._work(CALM)

    def _stop(self) -> None:
        self._kubectl("scale", "statefulset/vigie", "--replicas=0")
        self._kubectl("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=scorer", "--timeout=2m")

    def _end(self) -> None:
        """All comes out; the flow stops cleanly, and what it wrote is held against what it read."""
        assert self._traffic is not None
        with self._step("all that was sent comes out"):
            self.report.expected = self._traffic.finish()
        with self._step("stopped by kubectl scale --replicas=0"):
            last = {item["metadata"]["uid"] for item in self._cluster.pods().values()}
            self._stop()
            self._await(lambda: last <= set(self._cluster.ends()), READY, "pods run on")
            ends = {self._cluster.ends()[uid] for uid in last}
            assert ends == {("vigie-0", 0), ("vigie-1", 0)}, ends
        with self._step("held against the input"):
            self.report.findings = self._traffic.verify(self.report.expected)

    def _generation(self) -> Generation:
        found = {}
        for name, item in self._cluster.pods().items():
            statuses = item["status"].get("containerStatuses") or [{"restartCount": 0}]
            found[name] = (item["metadata"]["uid"], statuses[0]["restartCount"])
        return found

    def _restarts(self, name: str) -> int:
        return self._generation().get(name, ("", 0))[1]

    def _await_ready(self, count: int, before: Generation) -> None:
        """Returns when so many pods are ready, each of them started after ``before``."""

        def all_ready() -> bool:
            pods, now = self._cluster.pods(), self._generation()
            return len(pods) == count and all(
                _ready(item) and now.get(name) not in {None, before.get(name)} for name, item in pods.items()
            )

        self._await(all_ready, READY, f"not all of {count} pods are ready")

    def _scores_since(self, moment: float) -> bool:
        assert self._traffic is not None
        return self._traffic.scores_since(moment)

    def _work(self, seconds: float) -> None:
        """Lets the flow work, and sees that it does."""
        generation, until = self._generation(), time.monotonic() + seconds
        while time.monotonic() < until:
            self._check()
            time.sleep(0.2)
        now = self._generation()
        assert all(now.get(name) == state for name, state in generation.items() if name in {"vigie-0", "vigie-1"}), (
            f"pods were started anew by themselves: {generation}, then {now}"
        )

    def _await(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            self._check()
            assert time.monotonic() < give_up, f"{otherwise} within {seconds:g} s"
            time.sleep(0.1)

    def _check(self) -> None:
        self._cluster.check()
        if self._traffic is not None:
            self._traffic.check()

    def _kubectl(self, *words: str) -> str:
        return self._cluster.run(self._cluster.kubectl, "-n", NAMESPACE, *words)

    def _command(self, *words: str) -> None:
        """k8s/rescale or k8s/restart; all pods that it ends must end cleanly."""
        uids = {item["metadata"]["uid"] for item in self._cluster.pods().values()}
        said = self._cluster.run(*words)
        self._say(said.strip())
        ends = {self._cluster.ends().get(uid) for uid in uids}
        assert all(end is not None and end[1] == 0 for end in ends), f"{' '.join(words)}: pods ended with {ends}"

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.report.seconds[name] = time.monotonic() - begin
        self._say(f"{datetime.now(UTC):%H:%M:%S} {name}: {self.report.seconds[name]:.1f} s")


def _ready(item: Object) -> bool:
    conditions = item["status"].get("conditions", [])
    is_ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return is_ready and "deletionTimestamp" not in item["metadata"]
