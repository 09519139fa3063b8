"""k8s/rescale and k8s/restart, with a kubectl that takes notes: what they refuse, what they ask for, how they end."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.rendered import ROOT, program

SCRIPTS = ("rescale", "restart", "pods.sh")

# Answers from files beside it: "flow" (what ``get statefulset`` gives), "pods" (a line for each), "fails" (a verb).
KUBECTL = """#!/bin/sh
here=$(dirname "$0")
echo "$*" | tr -s '\\n ' ' ' >>"$here/calls"
echo >>"$here/calls"
verb= what=
for word; do
    case $word in
    -*) ;;
    *) [ -z "$verb" ] && verb=$word || what=${what:-$word} ;;
    esac
done
if [ "$verb" = "$(cat "$here/fails")" ]; then
    echo "Error from server: $verb is not possible" >&2
    exit 1
fi
case $verb-$what-$* in
get-statefulset-*) cat "$here/flow" ;;
get-pods-*--output=name*) echo pod/vigie-0 && echo pod/vigie-1 ;;
get-pods-*) cat "$here/pods" ;;
esac
"""


class Cluster:
    """The place of that kubectl."""

    def __init__(self, place: Path) -> None:
        self._place = place
        program = place / "kubectl"
        program.write_text(KUBECTL)
        program.chmod(0o755)
        self.has("2 OnDelete 4711 2", ready=2)
        self.fails("")

    def has(self, flow: str, ready: int) -> None:
        """``flow``: replicas, update strategy, version, VIGIE_PODS."""
        (self._place / "flow").write_text(flow)
        (self._place / "pods").write_text("True\n" * ready + "False\n")

    def fails(self, verb: str) -> None:
        (self._place / "fails").write_text(verb)

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        path = f"{self._place}{os.pathsep}{os.environ['PATH']}"
        command = [str(ROOT / "k8s" / script), *words]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False)

    def calls(self, verb: str) -> list[str]:
        notes = self._place / "calls"
        return [line for line in notes.read_text().splitlines() if f" {verb} " in line] if notes.exists() else []

    def changes(self) -> list[str]:
        return self.calls("patch") + self.calls("delete") + self.calls("scale")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    command = [program("shellcheck"), "--external-sources", "--shell=sh", f"k8s/{script}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_rescale_is_one_patch_and_then_all_pods(cluster: Cluster) -> None:
    cluster.has("2 OnDelete 4711 2", ready=3)
    done = cluster.run("rescale", "-n", "bank", "-c", "test", "3")
    assert done.returncode == 0, done.stderr
    assert "from 2 processes to 3" in done.stdout
    assert "all 3 are ready; scoring paused for about" in done.stdout
    assert all(line.startswith("--context=test --namespace=bank ") for line in cluster.calls("get") + cluster.changes())
    body: dict[str, Any] = json.loads(cluster.calls("patch")[0].partition("--patch=")[2])
    assert body["metadata"] == {"resourceVersion": "4711"}
    assert body["spec"]["replicas"] == 3
    (container,) = body["spec"]["template"]["spec"]["containers"]
    assert container == {"name": "scorer", "env": [{"name": "VIGIE_PODS", "value": "3"}]}
    (deleted,) = cluster.calls("delete")
    assert deleted.split()[2:5] == ["delete", "pod/vigie-0", "pod/vigie-1"]  # not the new one


def test_a_restart_changes_nothing_but_the_pods(cluster: Cluster) -> None:
    done = cluster.run("restart")
    assert done.returncode == 0, done.stderr
    assert "2 processes start anew" in done.stdout
    assert [line.split()[1:4] for line in cluster.changes()] == [["delete", "pod/vigie-0", "pod/vigie-1"]]


@pytest.mark.parametrize(
    ("script", "flow", "words", "said"),
    [
        ("rescale", "2 OnDelete 1 2", ["2"], "it has 2 already"),
        ("rescale", "2 RollingUpdate 1 2", ["3"], "its update strategy is RollingUpdate"),
        ("rescale", "0 OnDelete 1 2", ["3"], "it is stopped (0 replicas); start it first: kubectl -n vigie scale"),
        ("restart", "0 OnDelete 1 2", [], "it is stopped (0 replicas)"),
        ("restart", "3 OnDelete 1 2", [], "it has 3 replicas but VIGIE_PODS is '2', and would not work so"),
    ],
)
def test_what_would_do_harm_or_nothing_is_refused(
    cluster: Cluster, script: str, flow: str, words: list[str], said: str
) -> None:
    cluster.has(flow, ready=2)
    done = cluster.run(script, *words)
    assert done.returncode == 1
    assert f"{script}: vigie in vigie: {said}" in done.stderr
    assert not cluster.changes()


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("rescale", [], "usage: k8s/rescale [-c CONTEXT]"),
        ("rescale", ["0"], "PROCESSES is '0'; give a whole number from 1"),
        ("rescale", ["-1"], "there is no option -1"),
        ("rescale", ["two"], "PROCESSES is 'two'"),
        ("rescale", ["2", "3"], "usage: k8s/rescale"),
        ("rescale", ["-t", "soon", "3"], "-t is 'soon'; give a whole number of seconds"),
        ("restart", ["3"], "usage: k8s/restart [-c CONTEXT]"),
        ("restart", ["-n"], "-n needs a value"),
    ],
)
def test_wrong_use_is_said_and_changes_nothing(cluster: Cluster, script: str, words: list[str], said: str) -> None:
    done = cluster.run(script, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not cluster.changes()


def test_a_flow_that_cannot_be_read_is_refused_with_kubectls_words(cluster: Cluster) -> None:
    cluster.fails("get")
    done = cluster.run("rescale", "3")
    assert done.returncode == 1
    assert "Error from server: get is not possible" in done.stderr
    assert "its StatefulSet cannot be read; give its namespace with -n" in done.stderr


def test_no_pod_is_deleted_where_the_patch_is_refused(cluster: Cluster) -> None:
    cluster.fails("patch")
    done = cluster.run("rescale", "3")
    assert done.returncode == 1
    assert "it could not be changed" in done.stderr
    assert not cluster.calls("delete")


def test_a_rescale_mends_what_a_bare_scale_has_left(cluster: Cluster) -> None:
    cluster.has("3 OnDelete 1 2", ready=3)
    assert cluster.run("rescale", "3").returncode == 0
    assert cluster.calls("patch")


@pytest.mark.parametrize("fails", ["", "delete"])
def test_pods_that_are_not_ready_in_time_are_said(cluster: Cluster, fails: str) -> None:
    cluster.has("2 OnDelete 1 2", ready=1)
    cluster.fails(fails)
    done = cluster.run("restart", "-t", "1")
    assert done.returncode == 3
    assert "not all of 2 pods were ready within 1 s" in done.stderr
    assert "kubectl -n vigie logs --selector=app.kubernetes.io/name=vigie" in done.stderr
