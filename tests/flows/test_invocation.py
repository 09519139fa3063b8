"""What is read of the way bytewax.run was called, held against what bytewax.run itself makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bytewax.run import _parse_args

from features.errors import InvalidSetting
from flows.invocation import Invocation, of_pod, read

HOSTS = "a:1;b:1;c:1"
THREE = ("a:1", "b:1", "c:1")
POD = {"BYTEWAX_POD_NAME": "vigie-1", "BYTEWAX_STATEFULSET_NAME": "vigie"}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, Invocation(None, 0, 1, "0")),
        (["-r", "here", "-s", "1", "-b", "0"], {}, Invocation(Path("here"), 0, 1, "0", epoch=1.0)),
        (
            ["--recovery-directory=here", "-s1", "-b0"],
            {"BYTEWAX_RECOVERY_DIRECTORY": "there", "BYTEWAX_SNAPSHOT_INTERVAL": "30"},
            Invocation(Path("here"), 0, 1, "0", epoch=1.0),
        ),
        (
            ["-b", "0"],
            {
                "BYTEWAX_RECOVERY_DIRECTORY": "there",
                "BYTEWAX_SNAPSHOT_INTERVAL": "30",
                "BYTEWAX_PROCESS_ID": "1",
                "BYTEWAX_ADDRESSES": HOSTS,
            },
            Invocation(Path("there"), 1, 3, "1", THREE, epoch=30.0),
        ),
        (["-i", "2", "-a", HOSTS], {"BYTEWAX_PROCESS_ID": "1"}, Invocation(None, 2, 3, "2", THREE)),
        (["-i2", f"--addresses={HOSTS}", "-w", "2"], {}, Invocation(None, 2, 3, "2", THREE)),
        (
            [],
            {"BYTEWAX_POD_NAME": "vigie-1", "BYTEWAX_STATEFULSET_NAME": "vigie", "BYTEWAX_HOSTFILE_PATH": "hosts"},
            Invocation(None, 1, 2, "vigie-1", THREE[:2]),
        ),
        (["-i", "0"], {"BYTEWAX_HOSTFILE_PATH": "hosts"}, Invocation(None, 0, 2, "0", THREE[:2])),
    ],
)
def test_it_is_what_bytewax_will_use(
    arguments: list[str],
    environment: dict[str, str],
    expected: Invocation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hosts").write_text("a:1\n\nb:1\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["run", "flows.score", *arguments])
    theirs = _parse_args()  # type: ignore[no-untyped-call]  # bytewax ships it without types
    found = read(["flows.score", *arguments], environment)
    assert found == expected
    assert found.recovery == (theirs.recovery_directory and Path(theirs.recovery_directory))
    assert found.index == int(theirs.process_id or 0)
    assert theirs.snapshot_interval is None or found.epoch == theirs.snapshot_interval.total_seconds()
    assert found.count == (len(theirs.addresses.split(";")) if theirs.addresses else 1)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["-i", "3", "-a", HOSTS], {}, "the process id is '3', and there are 3 addresses"),
        (["-i", "x", "-a", HOSTS], {}, "the process id is 'x'"),
        (["-i", "0"], {}, "needs the addresses of all processes: set BYTEWAX_ADDRESSES"),
        ([], {"BYTEWAX_POD_NAME": "other", "BYTEWAX_STATEFULSET_NAME": "vigie", "BYTEWAX_ADDRESSES": HOSTS}, "'other'"),
    ],
)
def test_a_process_that_has_no_place_is_refused(arguments: list[str], environment: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        read(arguments, environment)


def test_a_pod_finds_its_place_by_its_name() -> None:
    options = of_pod(3, POD)
    addresses = ("vigie-0.vigie:9999", "vigie-1.vigie:9999", "vigie-2.vigie:9999")
    assert read(["flows.score", *options], POD) == Invocation(None, 1, 3, "vigie-1", addresses)


def test_a_single_pod_does_not_wait_for_its_name() -> None:
    alone = POD | {"BYTEWAX_POD_NAME": "vigie-0"}
    assert read(["flows.score", *of_pod(1, alone)], alone) == Invocation(None, 0, 1, "vigie-0", ("localhost:9999",))


@pytest.mark.parametrize(
    ("pods", "name", "said"),
    [
        (1, "vigie-1", "vigie-1 is pod 1 of 1: rescale with k8s/rescale 2"),
        (2, "vigie-2", "vigie-2 is pod 2 of 2: rescale with k8s/rescale 3"),
        (2, "vigie", "VIGIE_PODS is 2, but BYTEWAX_POD_NAME is 'vigie'"),
        (2, "other-0", "BYTEWAX_POD_NAME is 'other-0' and BYTEWAX_STATEFULSET_NAME is 'vigie', which do not say"),
        (2, "vigie-x", "which do not say which pod this is"),
        (2, "", "unset VIGIE_PODS"),
    ],
)
def test_a_pod_that_has_no_place_is_refused(pods: int, name: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        of_pod(pods, POD | {"BYTEWAX_POD_NAME": name})
