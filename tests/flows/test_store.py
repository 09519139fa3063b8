"""The recovery store before the engine opens it: made, checked, cleaned, held."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from features.errors import InvalidStore
from flows import store

ENDS = {"scored": [3, 5], "alerts": [0, 0]}


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    release()


def release() -> None:
    for lock in store._held:
        lock.close()
    store._held.clear()


def prepare(directory: Path, fingerprint: str = "f1", process: str = "0") -> store.Ends:
    try:
        return store.prepare(directory, fingerprint, process, lambda: ENDS)
    finally:
        release()


def write(part: Path, statement: str, rows: list[tuple[object, ...]]) -> None:
    with closing(sqlite3.connect(part)) as database, database:
        database.executemany(statement, rows)


def snaps(directory: Path) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for part in directory.glob("part-*.sqlite3"):
        with closing(sqlite3.connect(part)) as database:
            found |= set(database.execute("SELECT state_key, snap_epoch FROM snaps"))
    return found


SNAP = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES ('vigie.s', ?, ?, x'00')"
EXECUTION = "INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (?, ?, ?)"
FRONTIER = "INSERT INTO fronts (ex_num, worker_index, worker_frontier) VALUES (?, ?, ?)"


def test_a_new_store_is_made_and_notes_where_the_outputs_begin(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "recovery"
    assert prepare(directory) == ENDS
    assert len(list(directory.glob("part-*.sqlite3"))) == store.PARTITIONS
    assert store.prepare(directory, "f1", "0", lambda: {"scored": [99, 99]}) == ENDS


def test_what_an_epoch_that_was_cut_short_left_is_removed(tmp_path: Path) -> None:
    """The last execution had two workers; one had reached epoch 9, the other had not got beyond where it resumed, 7."""
    prepare(tmp_path)
    first, second, *_ = sorted(tmp_path.glob("part-*.sqlite3"))
    write(first, EXECUTION, [(0, 1, 1), (1, 2, 7)])
    write(second, FRONTIER, [(0, 0, 50), (1, 0, 9)])
    write(first, SNAP, [("a", 5), ("a", 6), ("b", 7)])
    write(second, SNAP, [("c", 6), ("c", 8), ("d", 60)])
    prepare(tmp_path)
    assert snaps(tmp_path) == {("a", 5), ("a", 6), ("c", 6)}


def test_states_of_other_features_are_refused(tmp_path: Path) -> None:
    prepare(tmp_path)
    with pytest.raises(InvalidStore, match=r"other features .fingerprint f1, this model has f2.*replay the last weeks"):
        prepare(tmp_path, "f2")


def test_a_lost_partition_is_refused_by_number(tmp_path: Path) -> None:
    prepare(tmp_path)
    lost = tmp_path / "part-7.sqlite3"
    lost.unlink()
    with pytest.raises(InvalidStore, match=r"lacks the partitions \[7\]"):
        prepare(tmp_path)


def test_a_partition_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path)
    shutil.copy(tmp_path / "part-1.sqlite3", tmp_path / "part-1-backup.sqlite3")
    with pytest.raises(InvalidStore, match="are both partition 1"):
        prepare(tmp_path)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "part-0.sqlite3").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(InvalidStore, match=r"part-0.sqlite3 cannot be read"):
        prepare(tmp_path)


def test_a_store_of_bytewax_is_taken_over_while_it_is_empty_only(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 2)  # type: ignore[no-untyped-call]
    assert prepare(tmp_path) == ENDS
    assert json.loads((tmp_path / store.IDENTITY).read_text())["features"] == "f1"
    (tmp_path / store.IDENTITY).unlink()
    write(tmp_path / "part-0.sqlite3", SNAP, [("a", 1)])
    with pytest.raises(InvalidStore, match="nobody knows whose they are"):
        prepare(tmp_path)


def test_a_store_in_use_by_the_same_process_is_refused(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from flows import store; "
    program += "store.prepare(Path(sys.argv[1]), 'f1', '0', dict); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(store.__file__).parents[1]
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InvalidStore, match="in use by another process 0"):
            prepare(tmp_path)
        prepare(tmp_path, process="1")  # a peer of the same cluster
        holder.kill()
    prepare(tmp_path)  # a crash leaves nothing to clear away


def begin(directory: Path, ends: store.Ends = ENDS) -> None:
    try:
        store.begin(directory, "f1", "0", ends)
    finally:
        release()


def test_a_store_that_is_being_filled_is_refused_until_it_is_whole(tmp_path: Path) -> None:
    begin(tmp_path)
    write(tmp_path / "part-0.sqlite3", SNAP, [("a", 0)])
    with pytest.raises(InvalidStore, match=r"was to be filled by `just warm`.*run it again"):
        prepare(tmp_path)
    store.finish(tmp_path, "f1", {"scored": [1, 2], "alerts": [0, 0]})
    assert prepare(tmp_path) == {"scored": [1, 2], "alerts": [0, 0]}
    with pytest.raises(InvalidStore, match="holds states already"):
        begin(tmp_path)


def test_filling_starts_over_with_nothing(tmp_path: Path) -> None:
    begin(tmp_path)
    part = tmp_path / "part-0.sqlite3"
    write(part, SNAP, [("a", 1)])
    write(part, EXECUTION, [(0, 1, 1)])
    write(part, FRONTIER, [(0, 0, 2)])
    begin(tmp_path)
    assert snaps(tmp_path) == set()
    store.finish(tmp_path, "f1", store.begins(tmp_path))
    write(part, SNAP, [("b", 1), ("c", 1)])
    assert store.keys(tmp_path, "vigie.s") == 2
    assert store.keys(tmp_path, "vigie.t") == 0


def test_outputs_begin_where_the_earliest_that_was_noted_says(tmp_path: Path) -> None:
    prepare(tmp_path)  # a flow that died before it had saved anything, but may have written
    begin(tmp_path, {"scored": [9, 1], "alerts": [0, 4]})
    assert store.begins(tmp_path) == {"scored": [3, 1], "alerts": [0, 0]}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["flows.score"], {}, None),
        (["flows.score", "-r", "here", "-s", "1"], {}, "here"),
        (["flows.score", "--recovery-directory=here"], {"BYTEWAX_RECOVERY_DIRECTORY": "there"}, "here"),
        (["flows.score"], {"BYTEWAX_RECOVERY_DIRECTORY": "there"}, "there"),
    ],
)
def test_the_directory_is_the_one_that_bytewax_will_use(
    arguments: list[str], environment: dict[str, str], expected: str | None
) -> None:
    found = store.directory_of(arguments, environment)
    assert (found and str(found)) == expected
