"""What is read of the way bytewax.run was called, held against what bytewax.run itself makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bytewax.run import _parse_args

from features.errors import InvalidSetting
from flows.invocation import Invocation, read

HOSTS = "a:1;b:1;c:1"


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, Invocation(None, 0, 1, "0")),
        (["-r", "here", "-s", "1", "-b", "0"], {}, Invocation(Path("here"), 0, 1, "0")),
        (
            ["--recovery-directory=here", "-s1", "-b0"],
            {"BYTEWAX_RECOVERY_DIRECTORY": "there"},
            Invocation(Path("here"), 0, 1, "0"),
        ),
        (
            ["-s", "1", "-b", "0"],
            {"BYTEWAX_RECOVERY_DIRECTORY": "there", "BYTEWAX_PROCESS_ID": "1", "BYTEWAX_ADDRESSES": HOSTS},
            Invocation(Path("there"), 1, 3, "1"),
        ),
        (["-i", "2", "-a", HOSTS], {"BYTEWAX_PROCESS_ID": "1"}, Invocation(None, 2, 3, "2")),
        (["-i2", f"--addresses={HOSTS}", "-w", "2"], {}, Invocation(None, 2, 3, "2")),
        (
            [],
            {"BYTEWAX_POD_NAME": "vigie-1", "BYTEWAX_STATEFULSET_NAME": "vigie", "BYTEWAX_HOSTFILE_PATH": "hosts"},
            Invocation(None, 1, 2, "vigie-1"),
        ),
        (["-i", "0"], {"BYTEWAX_HOSTFILE_PATH": "hosts"}, Invocation(None, 0, 2, "0")),
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
