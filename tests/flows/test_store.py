"""The recovery store before the engine opens it: made, checked, cleaned, held."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from features.errors import InvalidStore
from flows import hold, store
from flows.journal import Memory
from flows.store import Owner
from tests.flows.holding import release
from tests.flows.traffic import DAY

ENDS = {"scored": [3, 5], "rejected": [0, 0]}
BEGINS = store.Begins({"transactions": [7]}, ENDS)


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    release()


def owner(reach: int = 30 * DAY, topic: str = "id-1") -> Owner:
    return Owner(reach, {"transactions": topic})


def prepare(
    directory: Path, reach: int = 30 * DAY, topic: str = "id-1", begins: store.Begins = BEGINS, processes: int = 1
) -> store.Store:
    try:
        return store.prepare(directory, processes, owner(reach, topic), lambda: begins)
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


def prepare_with_partitions(directory: Path, count: int) -> None:
    """As stores were before there was one partition, and as Bytewax's own command makes them."""
    init_db_dir(directory, count)  # type: ignore[no-untyped-call]  # bytewax ships it without types
    prepare(directory)


SNAP = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES ('vigie.s', ?, ?, x'00')"
EXECUTION = "INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (?, ?, ?)"
FRONTIER = "INSERT INTO fronts (ex_num, worker_index, worker_frontier) VALUES (?, ?, ?)"


def test_a_new_store_is_made_and_notes_where_the_outputs_begin(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "recovery"
    assert prepare(directory).begins == BEGINS
    assert len(list(directory.glob("part-*.sqlite3"))) == store.PARTITIONS
    assert prepare(directory, begins=store.Begins({}, {"scored": [99, 99]})).begins == BEGINS


def test_what_an_epoch_that_was_cut_short_left_is_removed(tmp_path: Path) -> None:
    """The last execution had two workers; one had reached epoch 9, the other had not got beyond where it resumed, 7."""
    prepare_with_partitions(tmp_path, 2)
    first, second, *_ = sorted(tmp_path.glob("part-*.sqlite3"))
    write(first, EXECUTION, [(0, 1, 1), (1, 2, 7)])
    write(second, FRONTIER, [(0, 0, 50), (1, 0, 9)])
    write(first, SNAP, [("a", 5), ("a", 6), ("b", 7)])
    write(second, SNAP, [("c", 6), ("c", 8), ("d", 60)])
    prepare(tmp_path)
    assert snaps(tmp_path) == {("a", 5), ("a", 6), ("c", 6)}


def test_a_model_whose_windows_reach_further_than_the_store_is_refused_and_any_other_is_not(tmp_path: Path) -> None:
    made = prepare(tmp_path, 30 * DAY)
    assert made.memory == Memory(tmp_path / "journal", 30 * DAY)
    with pytest.raises(InvalidStore, match=r"as far as 30 days.*this model reach 31 days.*just warm"):
        prepare(tmp_path, 31 * DAY)
    assert prepare(tmp_path, 7 * DAY).memory.keep == 30 * DAY, "a way back to the model before"


def test_a_store_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path)
    noted = json.loads((tmp_path / store.IDENTITY).read_text())
    del noted["reach"]
    (tmp_path / store.IDENTITY).write_text(json.dumps(noted))
    with pytest.raises(InvalidStore, match=r"earlier version of Vigie.*just warm"):
        prepare(tmp_path)


def test_a_store_whose_making_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(directory: Path, _count: int) -> None:
        init_db_dir(directory, 2)  # type: ignore[no-untyped-call]  # bytewax ships it without types
        (directory / "part-0.sqlite3").unlink()
        (directory / "part-1.sqlite3").write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "init_db_dir", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    monkeypatch.undo()
    prepare(tmp_path)
    assert len(list(tmp_path.glob("part-*.sqlite3"))) == store.PARTITIONS


def test_a_lost_partition_is_refused_by_number(tmp_path: Path) -> None:
    prepare_with_partitions(tmp_path, 8)
    lost = tmp_path / "part-7.sqlite3"
    lost.unlink()
    with pytest.raises(InvalidStore, match=r"lacks the partitions \[7\]"):
        prepare(tmp_path)


def test_a_partition_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    prepare_with_partitions(tmp_path, 2)
    shutil.copy(tmp_path / "part-1.sqlite3", tmp_path / "part-1-backup.sqlite3")
    with pytest.raises(InvalidStore, match="are both partition 1"):
        prepare(tmp_path)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "part-0.sqlite3").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(InvalidStore, match=r"part-0.sqlite3 cannot be read"):
        prepare(tmp_path)


def test_a_store_of_bytewax_is_taken_over_while_it_is_empty_only(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 2)  # type: ignore[no-untyped-call]  # bytewax ships it without types
    assert prepare(tmp_path).begins == BEGINS
    assert json.loads((tmp_path / store.IDENTITY).read_text())["reach"] == 30 * DAY
    (tmp_path / store.IDENTITY).unlink()
    write(tmp_path / "part-0.sqlite3", SNAP, [("a", 1)])
    with pytest.raises(InvalidStore, match="nobody knows whose they are"):
        prepare(tmp_path)


def test_topics_that_were_made_anew_are_refused(tmp_path: Path) -> None:
    prepare(tmp_path)
    with pytest.raises(InvalidStore, match=r"other topics .*id-1.*id-2.*made again.*just warm"):
        prepare(tmp_path, topic="id-2")


def test_a_store_says_whether_it_holds_states(tmp_path: Path) -> None:
    assert not prepare(tmp_path).resumes
    part = tmp_path / "part-0.sqlite3"
    write(part, EXECUTION, [(0, 1, 1)])
    write(part, FRONTIER, [(0, 0, 9)])
    write(part, SNAP, [("a", 5)])
    assert prepare(tmp_path).resumes


def test_marks_of_dropped_states_go_once_nothing_older_is_left(tmp_path: Path) -> None:
    prepare(tmp_path)
    part = tmp_path / "part-0.sqlite3"
    write(part, EXECUTION, [(0, 1, 1)])
    write(part, FRONTIER, [(0, 0, 20)])
    write(part, "INSERT INTO commits (part_index, commit_epoch) VALUES (?, ?)", [(0, 15)])
    write(part, SNAP, [("hidden", 3), ("back", 12)])
    mark = SNAP.replace("x'00'", "NULL")
    write(part, mark, [("spent", 4), ("hidden", 5), ("back", 9), ("recent", 16)])
    prepare(tmp_path)
    assert snaps(tmp_path) == {("hidden", 3), ("hidden", 5), ("back", 12), ("recent", 16)}


def test_a_store_remembers_the_most_processes_that_the_flow_ever_had(tmp_path: Path) -> None:
    assert [prepare(tmp_path, processes=count).processes for count in (1, 3, 2)] == [1, 3, 3]


def test_a_store_in_use_is_left_alone(tmp_path: Path) -> None:
    prepare(tmp_path)
    write(tmp_path / "part-0.sqlite3", SNAP, [("a", 5)])
    hold.take(tmp_path)
    with pytest.raises(InvalidStore, match="in use by another flow"):
        store.prepare(tmp_path, 1, owner(), lambda: BEGINS)
    with pytest.raises(InvalidStore, match="in use by another flow"):
        store.begin(tmp_path, owner(), ENDS)
    assert snaps(tmp_path) == {("a", 5)}


def begin(directory: Path, ends: store.Ends = ENDS) -> store.Ends:
    try:
        return store.begin(directory, owner(), ends)
    finally:
        release()


def test_a_store_that_is_being_filled_is_refused_until_it_is_whole(tmp_path: Path) -> None:
    begin(tmp_path)
    write(tmp_path / "part-0.sqlite3", SNAP, [("a", 0)])
    with pytest.raises(InvalidStore, match=r"was to be filled by `just warm`.*run it again"):
        prepare(tmp_path)
    store.finish(tmp_path, {"scored": [1, 2], "rejected": [0, 0]})
    assert prepare(tmp_path).begins.outputs == {"scored": [1, 2], "rejected": [0, 0]}
    with pytest.raises(InvalidStore, match="holds states already"):
        begin(tmp_path)


def test_filling_starts_over_with_nothing(tmp_path: Path) -> None:
    begin(tmp_path)
    part = tmp_path / "part-0.sqlite3"
    write(part, SNAP, [("a", 1)])
    write(part, EXECUTION, [(0, 1, 1)])
    write(part, FRONTIER, [(0, 0, 2)])
    begins = begin(tmp_path)
    assert snaps(tmp_path) == set()
    store.finish(tmp_path, begins)


def test_outputs_begin_where_the_earliest_that_was_noted_says(tmp_path: Path) -> None:
    prepare(tmp_path)  # a flow that died before it had saved anything, but may have written
    found = begin(tmp_path, {"scored": [9, 1], "rejected": [0, 4]})
    assert found == {"scored": [3, 1], "rejected": [0, 0]}
