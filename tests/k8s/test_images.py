from __future__ import annotations

import sys
from pathlib import Path

from tests.flows.running import ROOT
from tests.k8s import images
from tests.k8s.container import Image, Plan, script
from tests.k8s.spec import Identity, Mount

DOCKERFILE = """\
ARG PYTHON=python:3
FROM ${PYTHON} AS base
ENV A=1 \\
    B="two words"
WORKDIR /app
COPY flows/ flows/
FROM base AS compiled
RUN python -c "print(1)"
FROM base AS scorer
COPY --from=packages /opt/scorer /opt/scorer
COPY --from=compiled /opt/numba /opt/numba
ENV PATH=/opt/scorer/bin:$PATH
USER 10001:10001
ENTRYPOINT ["python", "-m", "flows"]
"""


def test_a_stage_has_what_those_below_it_have() -> None:
    found = images.stages(DOCKERFILE)
    scorer = images.of_target("registry.example.com:5000/vigie-scorer:1.0", found)
    assert scorer.environment["A"] == "1"
    assert scorer.environment["B"] == "two words"
    assert scorer.environment["PATH"].startswith("/opt/scorer/bin:/")
    assert (scorer.directory, scorer.user, scorer.command) == ("/app", 10001, ["python", "-m", "flows"])
    assert scorer.copies == [("flows/", "/app/flows")]
    assert scorer.packages == ["/opt/scorer"]
    assert not scorer.runs
    assert found["compiled"].runs == ['python -c "print(1)"']


def test_an_image_holds_the_directories_that_are_copied_and_no_others() -> None:
    stage = images.stages(DOCKERFILE)["scorer"]
    mounts = images.image(stage, Path("/compiled")).mounts
    assert Mount(str(ROOT / "flows"), "/app/flows", read_only=True) in mounts
    assert Mount(str(Path(sys.prefix).resolve()), "/opt/scorer", read_only=True) in mounts
    assert Mount("/compiled", "/opt/numba", read_only=True) in mounts
    assert not any(mount.target == "/app" for mount in mounts)


def test_the_root_is_closed_after_all_is_mounted_and_before_the_command_begins() -> None:
    identity = Identity(1, 2, (3,), read_only_root=True, may_gain_privileges=False, dropped=True)
    mounts = [Mount("/host/a b", "/data", read_only=True)]
    plan = Plan(["echo", "a b"], {}, "/app", identity, mounts, Image("/", {}), "pod", "vigie-0", Path("/scratch"))
    lines = script(plan).splitlines()
    order = [
        lines.index("mount --rbind '/host/a b' ./data"),
        lines.index("mount -o remount,bind,ro ./data"),
        lines.index("mount -o remount,ro ."),
        len(lines) - 1,
    ]
    assert order == sorted(order)
    assert "setpriv --reuid=1 --regid=2 --groups=3 --no-new-privs --bounding-set=-all --inh-caps=-all" in lines[-1]
    assert lines[-1].endswith("env -C /app echo 'a b' </dev/null")
