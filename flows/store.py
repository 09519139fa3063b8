"""The recovery store before the engine opens it: whole, of this flow, and free of what must not be resumed from.

Bytewax leaves in the store what an epoch had written when it was cut short, and uses the epoch's number again. After
two crashes in a row it can so take up a state that belongs to the first run, and count input twice. ``prepare`` removes
those rows; it runs in every process before its engine starts, and no engine starts before all processes are there.

All processes of a flow work in one directory. Each holds a lock there, under its number, for as long as it lives, and
looks for the locks of its peers: so nobody works in a copy, and no process of an earlier start is left over.
"""

from __future__ import annotations

import fcntl
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from bytewax.recovery import init_db_dir

from features.errors import InvalidStore
from features.transaction import microseconds
from flows.invocation import Invocation

PARTITIONS: Final = 32  # many, since resuming takes the square of the rows in one; fixed for the store's life
IDENTITY: Final = "vigie.json"
PROBED: Final = 1.0  # seconds; a peer that looks whether a lock is held has it for a moment

Ends = dict[str, list[int]]

_log = logging.getLogger(__name__)
_held: list[TextIO] = []  # locks live as long as the process


class Store(NamedTuple):
    """What a prepared store has noted.

    ``made_at``: in microseconds since 1970. ``begins``: the offsets from which on the output topics are this flow's.
    ``processes``: the most that ever worked in it. ``resumes``: whether it holds states.
    """

    made_at: int
    begins: Ends
    processes: int
    resumes: bool


def prepare(
    place: Invocation,
    fingerprint: str,
    topic_ids: Callable[[], Mapping[str, str]],
    ends: Callable[[], Ends],
    patience: float,
) -> Store | None:
    """Makes a new store, or checks one and cleans it; holds it for this process until the process ends.

    ``fingerprint``: of the feature definitions that the states belong to. ``topic_ids``: Kafka's own ids of the input
    topics, by name; a topic that was deleted and made again has another one. ``ends``: the next offset of each
    partition of the output topics; a new store notes them. ``patience``: seconds to wait for the other processes.
    None where the flow runs without recovery. Raises ``InvalidStore`` where the store is incomplete, belongs to
    something else, is in use, or is not where the other processes work.
    """
    directory = place.recovery
    if directory is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    _hold(directory, place.index)
    _call_roll(directory, place, patience)
    with _alone(directory / "prepare.lock"):
        if not list(directory.glob("part-*.sqlite3")):
            init_db_dir(directory, PARTITIONS)  # type: ignore[no-untyped-call]  # bytewax ships it without types
            _log.info("new recovery store", extra={"directory": directory, "partitions": PARTITIONS})
        parts = _parts(directory)
        noted = _check_owner(directory, parts, fingerprint, dict(topic_ids()), ends)
        if noted["processes"] < place.count:
            _note(directory, noted | {"processes": place.count})
        epoch = _resume_epoch(parts)
        removed = sum(_clean(part, epoch) for part in parts)
        resumes = any(_rows(part, "SELECT 1 FROM snaps LIMIT 1") for part in parts)
    _log.info("recovery store", extra={"directory": directory, "resume_epoch": epoch, "cut_short_rows": removed})
    return Store(noted["made_at"], noted["outputs_begin"], max(noted["processes"], place.count), resumes)


def _check_owner(
    directory: Path, parts: Sequence[Path], fingerprint: str, topic_ids: dict[str, str], ends: Callable[[], Ends]
) -> dict[str, Any]:
    """What the store's first start noted of it, where that fits."""
    file = directory / IDENTITY
    try:
        noted: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        # New, or made with `python -m bytewax.recovery`, and so far of nobody: its first flow owns it.
        if any(_rows(part, "SELECT 1 FROM snaps LIMIT 1") for part in parts):
            raise InvalidStore(
                f"{directory} holds states but no {IDENTITY}, so nobody knows whose they are; "
                "use another recovery directory"
            ) from None
        first = {"flow": "vigie", "features": fingerprint, "topics": topic_ids, "processes": 0}
        return _note(directory, first | {"made_at": microseconds(datetime.now(UTC)), "outputs_begin": ends()})
    except ValueError as error:
        raise InvalidStore(f"{file} cannot be read ({error}); restore it, or use another recovery directory") from error
    if noted.get("flow") != "vigie":
        raise InvalidStore(f"{directory} belongs to the flow {noted.get('flow')!r}; use another recovery directory")
    if noted.get("features") != fingerprint:
        raise InvalidStore(
            f"{directory} holds the states of other features (fingerprint {noted.get('features')}, this model has "
            f"{fingerprint}); use the model they belong to, or an empty recovery directory and `just warm`"
        )
    if noted["topics"] != topic_ids:
        raise InvalidStore(
            f"{directory} holds positions in other topics (Kafka's ids are {noted['topics']}, here they are "
            f"{topic_ids}): they were deleted and made again, or belong to another Kafka or other settings; "
            "use the topics that it belongs to, or an empty recovery directory and `just warm`"
        )
    return noted


def _note(directory: Path, noted: dict[str, Any]) -> dict[str, Any]:
    partial = directory / f".{IDENTITY}"
    partial.write_text(json.dumps(noted))
    partial.replace(directory / IDENTITY)
    return noted


def _parts(directory: Path) -> list[Path]:
    """The store's partitions, all of them."""
    parts = sorted(directory.glob("part-*.sqlite3"))
    found: dict[int, Path] = {}
    counts: set[int] = set()
    for part in parts:
        for index, count in _rows(part, "SELECT part_index, part_count FROM parts"):
            if index in found:
                raise InvalidStore(f"{part} and {found[index]} are both partition {index}; remove the older copy")
            found[index] = part
            counts.add(count)
    if len(counts) != 1:
        raise InvalidStore(f"the partitions in {directory} are of stores of {sorted(counts)} partitions; separate them")
    missing = sorted(set(range(counts.pop())) - set(found))
    if missing:
        raise InvalidStore(
            f"{directory} lacks the partitions {missing}; all of them must lie in this one directory: put the files "
            "back, or restore a backup"
        )
    return parts


def _resume_epoch(parts: Sequence[Path]) -> int:
    """The epoch that Bytewax resumes from: of the last execution, the least that any of its workers had reached."""
    executions = [row for part in parts for row in _rows(part, "SELECT ex_num, worker_count, resume_epoch FROM exs")]
    if not executions:
        return 1
    last, workers, resumed = max(executions)
    reached = dict.fromkeys(range(workers), resumed)
    for part in parts:
        for number, worker, frontier in _rows(part, "SELECT ex_num, worker_index, worker_frontier FROM fronts"):
            if number == last:
                reached[worker] = max(reached.get(worker, resumed), frontier)
    return min(reached.values())


# What belongs to the epoch to resume from and later ones.
_CUT_SHORT: Final = "DELETE FROM snaps WHERE snap_epoch >= ?"
# The marks of states that were dropped, where nothing older is left that they hide; Bytewax keeps them for ever.
_SPENT: Final = """
DELETE FROM snaps AS mark WHERE ser_change IS NULL AND snap_epoch < (SELECT min(commit_epoch) FROM commits)
AND NOT EXISTS (SELECT 1 FROM snaps AS older WHERE older.step_id = mark.step_id
                AND older.state_key = mark.state_key AND older.snap_epoch < mark.snap_epoch)
"""


def _clean(part: Path, epoch: int) -> int:
    """Removes what must not be resumed from, and what no longer says anything; returns how many rows of the first."""
    try:
        with closing(sqlite3.connect(part)) as connection, connection:
            removed = connection.execute(_CUT_SHORT, (epoch,)).rowcount
            connection.execute(_SPENT)
            return removed
    except sqlite3.Error as error:
        raise InvalidStore(f"{part} cannot be cleaned ({error}); restore it from a backup") from error


def _rows(part: Path, query: str) -> list[tuple[int, ...]]:
    try:
        with closing(sqlite3.connect(part)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise InvalidStore(f"{part} cannot be read ({error}); restore it from a backup") from error


def _lock_file(directory: Path, index: int) -> Path:
    return directory / f"process-{index}.lock"


def _hold(directory: Path, index: int) -> None:
    lock = _lock_file(directory, index).open("a")
    give_up = time.monotonic() + PROBED
    while not _try_lock(lock):
        if time.monotonic() > give_up:
            lock.close()
            raise InvalidStore(
                f"{directory} is in use by another process {index} of the flow; stop it, or use another directory"
            )
        time.sleep(0.05)
    _held.append(lock)


def _call_roll(directory: Path, place: Invocation, patience: float) -> None:
    """Returns when every peer works in the directory, and raises where another process does."""
    give_up = time.monotonic() + patience
    while absent := [i for i in range(place.count) if i != place.index and not _is_held(directory, i)]:
        if time.monotonic() > give_up:
            raise InvalidStore(
                f"the processes {absent} of the flow did not start to work in {directory} within {patience:g} s; all "
                "processes need the same recovery directory, not copies of it: start them, or mend their settings"
            )
        time.sleep(0.05)
    numbers = [int(file.stem.removeprefix("process-")) for file in directory.glob("process-*.lock")]
    if left := [i for i in sorted(numbers) if i >= place.count and _is_held(directory, i)]:
        raise InvalidStore(
            f"{directory} is in use by the processes {left} of an earlier start that had more than {place.count}; "
            "stop them"
        )


def _is_held(directory: Path, index: int) -> bool:
    try:
        with _lock_file(directory, index).open() as lock:
            return not _try_lock(lock)
    except FileNotFoundError:
        return False


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
