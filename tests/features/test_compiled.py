from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from features import compiled

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


def run(place: Path) -> list[str]:
    """What ``CALLER`` prints in a process of its own: a number, and how often its machine code was found on disk."""
    environment = os.environ | {"PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(place / "kept")}
    words = [sys.executable, "-c", "import features.caller"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment, cwd=place)
    assert not done.stderr
    return done.stdout.split()


def test_machine_code_is_kept_until_any_module_of_the_package_changes(tmp_path: Path) -> None:
    package = tmp_path / "features"
    package.mkdir()
    shutil.copy(compiled.__file__, package)
    (package / "caller.py").write_text(CALLER)
    (package / "called.py").write_text(CALLED.format(by=1))
    assert run(tmp_path) == ["2", "0"]
    assert run(tmp_path) == ["2", "1"]
    # Numba itself would keep what it compiled of the caller, whose file is as it was.
    (package / "called.py").write_text(CALLED.format(by=2))
    assert run(tmp_path) == ["3", "0"]
