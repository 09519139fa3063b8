from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from features import compiled, sources

CALLER = """
from features.called import shift
from features.compiled import compiled

@compiled
def shifted(number: int) -> int:
    return shift(number)

print(shifted(1), sum(shifted.stats.cache_hits.values()))
"""
CALLED = """
from features.compiled import compiled

@compiled
def shift(number: int) -> int:
    return number + {by}
"""


READ_ONLY = """
import builtins, errno, io, tempfile

def opened(file, mode="r", *rest, **named):
    if not set(mode) <= set("rbt"):
        raise OSError(errno.EROFS, "Read-only file system")
    return io.open(file, mode, *rest, **named)

builtins.open = opened
tempfile.TemporaryFile = lambda dir: opened(dir, "wb")
"""


def run(place: Path, before: str = "") -> tuple[list[str], str]:
    """What ``CALLER`` prints in a process of its own: a number, and how often its machine code was found on disk.

    And what that process says beside.
    """
    environment = os.environ | {"PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(place / "kept")}
    words = [sys.executable, "-B", "-c", f"{before}\nimport features.caller"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment, cwd=place)
    return done.stdout.split(), done.stderr


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of two compiled functions, one of which calls the other."""
    package = tmp_path / "features"
    package.mkdir()
    for module in (compiled, sources):
        shutil.copy(str(module.__file__), package)
    (package / "caller.py").write_text(CALLER)
    (package / "called.py").write_text(CALLED.format(by=1))
    return package


def test_machine_code_is_kept_until_any_module_of_the_package_changes(package: Path, tmp_path: Path) -> None:
    assert run(tmp_path) == (["2", "0"], "")
    assert run(tmp_path) == (["2", "1"], "")
    # Numba itself would keep what it compiled of the caller, whose file is as it was.
    (package / "called.py").write_text(CALLED.format(by=2))
    assert run(tmp_path) == (["3", "0"], "")


def test_what_an_image_brings_is_used_though_nothing_can_be_written(package: Path, tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, READ_ONLY) == (["2", "1"], "")
    (package / "called.py").write_text(CALLED.format(by=2))
    printed, said = run(tmp_path, READ_ONLY)
    assert printed == ["3", "0"]
    assert said.count("compiled code cannot be kept (Read-only file system)") == 1  # though two functions are compiled
