"""Processes as a StatefulSet runs them: a volume each, and each started again, alone, as soon as it has ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.local_kafka import HOST, LocalKafka, free_port
from tests.flows import bundles
from tests.flows.running import ROOT, SLOWLY, SMALL_BATCHES, Flow, launch, running
from tests.flows.traffic import expected_features, feature_bits, history, transaction_message

MORE = 250


class Pods:
    """So many processes of a flow; ``starts``: of each how often it was started since they are so many."""

    def __init__(self, flow: Flow, count: int) -> None:
        self._flow = flow
        self._addresses = ";".join(f"{HOST}:{free_port()}" for _ in range(count))
        self.starts = [0] * count
        self.processes = [self._start(index) for index in range(count)]

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        self.starts[index] += 1
        options = ["-a", self._addresses, "-i", str(index), "-r", str(self.volume(index)), "-s", "1", "-b", "0"]
        with self._flow.console.open("ab") as console:
            return launch(self._flow.environment, console.fileno(), options=options)

    def volume(self, index: int) -> Path:
        """The pod's own recovery directory."""
        return self._flow.folder / f"volume-{index}"

    def start_the_ended(self) -> None:
        """As a kubelet does, without a word to the others."""
        for index, process in enumerate(self.processes):
            if process.poll() is not None:
                self.processes[index] = self._start(index)

    def see_all_end(self, seconds: float) -> None:
        """Fails where one of them goes on for longer; each is started again at once."""
        give_up = time.monotonic() + seconds
        former = list(self.processes)
        while any(process.poll() is None for process in former):
            assert time.monotonic() < give_up, self._flow.console_text()
            self.start_the_ended()
            time.sleep(0.05)

    def read(self, n: int) -> None:
        """Reads on until n transactions are scored; whatever ends in the meantime is started again."""
        inbox = self._flow._inboxes["scored"]
        give_up = time.monotonic() + 90
        while len(inbox.received) < n:
            assert time.monotonic() < give_up, f"{len(inbox.received)} of {n}\n{self._flow.console_text()}"
            inbox.read(0.1)
            self.start_the_ended()

    def delete(self) -> list[int]:
        """All at once, as a rescale does; their exit statuses."""
        for process in self.processes:
            process.terminate()
        return [process.wait(30) for process in self.processes]

    def close(self) -> None:
        """Leaves no process behind."""
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def flow(kafka: LocalKafka, tmp_path: Path) -> Iterator[Flow]:
    with running(kafka.bootstrap_servers, tmp_path, SLOWLY) as flow:
        yield flow


def test_whichever_pod_is_killed_all_meet_again_and_only_the_first_keeps_anything(flow: Flow) -> None:
    """And a rescale needs that one's volume alone."""
    transactions, _ = history(6 * MORE)
    sent = 0
    for count, killed in ((2, (1, 0)), (3, (2,)), (1, ())):
        pods = Pods(flow, count)
        try:
            for victim in (*killed, None):
                coming = transactions[sent : sent + MORE]
                flow.produce("transactions", map(transaction_message, coming), **SMALL_BATCHES)
                sent += MORE
                pods.read(sent if victim is None else sent - MORE + 10)
                if victim is not None:
                    pods.processes[victim].kill()
                    pods.see_all_end(5.0)
            assert pods.delete() == [0] * count
        finally:
            pods.close()
        for index in range(1, count):
            assert list(pods.volume(index).iterdir()) == []
    expected = expected_features(transactions, [])
    scored = flow.read_rest("scored")
    assert Counter(r.json["transaction_id"] for r in scored) == Counter(expected.keys())
    for record in scored:
        assert feature_bits(record.json) == expected[record.json["transaction_id"]]


def test_a_pod_with_another_model_is_refused_until_it_has_the_same(flow: Flow) -> None:
    flow.produce("transactions", map(transaction_message, history(10)[0]))
    own = flow.environment["VIGIE_MODEL"]
    flow.environment["VIGIE_KAFKA_TIMEOUT"] = "60s"
    pods = Pods(flow, 2)
    try:
        pods.processes[1].kill()
        pods.processes[1].wait()
        flow.environment["VIGIE_MODEL"] = str(bundles.make(flow.folder / "others", "test-2"))
        pods.start_the_ended()
        assert pods.processes[1].wait(60) == 1
        assert "vigie: process 0 of the flow refuses this process 1: the model is test-2 (sha256" in flow.console_text()
        assert "there and test-1 (sha256" in flow.console_text()
        flow.environment["VIGIE_MODEL"] = own
        pods.read(1)
        assert pods.starts == [1, 3]
    finally:
        pods.close()


def test_a_signal_ends_a_pod_that_waits_for_the_others(flow: Flow) -> None:
    pods = Pods(flow, 2)
    try:
        pods.processes[1].kill()
        give_up = time.monotonic() + 60
        while "recovery store" not in flow.console_text():
            assert time.monotonic() < give_up, flow.console_text()
            time.sleep(0.1)
        began = time.monotonic()
        pods.processes[0].terminate()
        assert pods.processes[0].wait(30) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 2
    finally:
        pods.close()


# As the first process of a container, which has no default that would end it; told to stop at its first import of ours.
TOLD_AT_FIRST_IMPORT = """
import os, runpy, signal, sys

class Telling:
    def find_spec(self, name, *_):
        if name == "features":
            os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.meta_path.insert(0, Telling())
runpy.run_module("flows", run_name="__main__", alter_sys=True)
"""


def test_a_signal_is_heard_from_the_beginning() -> None:
    command = [sys.executable, "-c", TOLD_AT_FIRST_IMPORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr


@pytest.mark.parametrize(
    ("environment", "options", "status", "said"),
    [
        ({"VIGIE_PODS": "2"}, [], 1, "vigie: vigie-2 is pod 2 of 2: rescale with k8s/rescale 3"),
        ({"VIGIE_PODS": "none"}, [], 1, "vigie: VIGIE_PODS is 'none'; set a whole number from 1"),
        ({"VIGIE_PODS": "3"}, ["-p", "2"], 2, "--processes is 2, but VIGIE_PODS is set: a pod is one process"),
    ],
)
def test_a_pod_that_cannot_take_part_says_so(
    environment: dict[str, str], options: list[str], status: int, said: str
) -> None:
    environment = {"BYTEWAX_POD_NAME": "vigie-2", "BYTEWAX_STATEFULSET_NAME": "vigie", **environment}
    command = [sys.executable, "-m", "flows", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stderr
