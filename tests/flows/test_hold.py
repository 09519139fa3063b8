"""Who may work in a recovery directory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.errors import InvalidStore
from flows import hold
from tests.flows.holding import release

HOLD = """
import sys; from pathlib import Path; from flows import hold
print(hold.take(Path(sys.argv[1])), flush=True); sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    release()


def test_a_directory_is_held_as_long_as_the_process_lives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = Path(hold.__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, text=True) as holder:
        assert holder.stdout is not None
        mark = holder.stdout.readline().strip()
        with pytest.raises(InvalidStore, match="in use by another flow"):
            hold.take(tmp_path)
        (tmp_path / "part-0.sqlite3").touch()
        hold.visit(tmp_path, mark)  # who was refused has left the mark as it was
        holder.kill()
    assert hold.take(tmp_path) != mark  # a crash leaves nothing to clear away


def test_an_empty_directory_is_welcome_and_made_where_there_is_none(tmp_path: Path) -> None:
    hold.visit(tmp_path / "a" / "b", "mark")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_store_of_another_directory_is_refused(tmp_path: Path) -> None:
    (original := tmp_path / "original").mkdir()
    (original / "part-0.sqlite3").touch()
    hold.take(original)
    shutil.copytree(original, copy := tmp_path / "copy")
    release()
    mark = hold.take(original)
    hold.visit(original, mark)
    with pytest.raises(InvalidStore, match=r"not the one that process 0 works in.*empty directory"):
        hold.visit(copy, mark)
    (copy / hold.LOCK).unlink()
    with pytest.raises(InvalidStore, match="not the one that process 0 works in"):
        hold.visit(copy, mark)
