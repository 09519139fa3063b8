"""The recovery store before the engine opens it: whole, of this flow, and free of what must not be resumed from.

Bytewax leaves in the store what an epoch had written when it was cut short, and uses the epoch's number again. After
two crashes in a row it can so take up a state that belongs to the first run, and count input twice. ``prepare`` removes
those rows; it runs in process 0, and no engine starts before it is done.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from bytewax.recovery import init_db_dir

from features.errors import InvalidStore
from features.transaction import MICROSECOND, microseconds
from flows import hold
from flows.journal import Memory, sync

PARTITIONS: Final = 1  # at every epoch's end the engine waits for the disk once for each of them
IDENTITY: Final = "vigie.json"
MAKING: Final = "making"  # a file that is there while the partitions are made
JOURNAL: Final = "journal"  # the folder of what was read
UNFINISHED: Final = "unfinished"  # in the identity, of a store that is being filled

Ends = dict[str, list[int]]

_log = logging.getLogger(__name__)


class Owner(NamedTuple):
    """Whose past a store holds.

    ``reach``: how far back the features look, in microseconds. ``topics``: Kafka's own ids of the input topics, by
    name; one that is deleted and made again gets another.
    """

    reach: int
    topics: dict[str, str]


class Begins(NamedTuple):
    """Where a flow begins: the offsets from which on it reads the input topics, and the output topics are its own."""

    inputs: Ends
    outputs: Ends


class Store(NamedTuple):
    """What a prepared store has noted.

    ``memory``: where the reader keeps what was read, and for how long. ``made_at``: in microseconds since 1970.
    ``processes``: the most that the flow ever had. ``resumes``: whether it holds states. ``mark``: see ``hold.take``.
    """

    memory: Memory
    made_at: int
    begins: Begins
    processes: int
    resumes: bool
    mark: str


def prepare(directory: Path, processes: int, owner: Owner, begins: Callable[[], Begins]) -> Store:
    """Makes a new store, or checks one and cleans it; holds it for this process until the process ends.

    ``processes``: how many the flow has now. ``begins``: where a flow that starts now begins; a new store notes it.
    Raises ``InvalidStore`` where the store is incomplete, belongs to something else, or is in use.
    """
    mark = hold.take(directory)
    parts = _parts(directory)
    noted = _checked(directory, parts, owner) or _note(directory, _new(owner, begins()))
    if noted["processes"] < processes:
        noted = _note(directory, noted | {"processes": processes})
    epoch = _resume_epoch(parts)
    removed = sum(_write(part, _CUT_SHORT.format(epoch), _SPENT)[0] for part in parts)
    resumes = any(_has_states(part) for part in parts)
    _log.info("recovery store", extra={"directory": directory, "resume_epoch": epoch, "cut_short_rows": removed})
    memory = Memory(directory / JOURNAL, noted["reach"])
    begins_noted = Begins(noted["inputs_begin"], noted["outputs_begin"])
    return Store(memory, noted["made_at"], begins_noted, noted["processes"], resumes, mark)


def begin(directory: Path, owner: Owner, ends: Ends) -> Ends:
    """Makes a new store, or takes one without states, to be filled by other means than the flow, and holds it.

    Until ``finish`` the flow refuses it, and ``begin`` would empty it and start over. ``ends``: where the flow's part
    of the output topics begins; what the store noted before stands where it is earlier. Returns which it is. Raises
    ``InvalidStore`` where the store has states, or is incomplete or in use.
    """
    hold.take(directory)
    parts = _parts(directory)
    noted = _noted(directory) or _new(owner, Begins({}, ends))
    if UNFINISHED not in noted and any(_has_states(part) for part in parts):
        raise InvalidStore(
            f"{directory} holds states already, and the flow goes on from them; use another recovery directory, or "
            "remove this one to begin anew"
        )
    before = noted["outputs_begin"]
    earlier = {topic: list(map(min, ends[topic], before.get(topic, ends[topic]))) for topic in ends}
    _note(directory, noted | {"reach": owner.reach, "topics": owner.topics, "outputs_begin": earlier, UNFINISHED: True})
    for part in parts:
        _write(part, "DELETE FROM snaps", "DELETE FROM fronts", "DELETE FROM exs", "DELETE FROM commits")
    return earlier


def finish(directory: Path, ends: Ends) -> None:
    """Makes what ``begin`` began the flow's, with ``ends`` as there; it is on disk when this returns."""
    for part in _parts(directory):
        _rows(part, "PRAGMA wal_checkpoint(TRUNCATE)")
        sync(part)
    noted = _noted(directory) or {}
    noted.pop(UNFINISHED, None)
    _note(directory, noted | {"outputs_begin": ends})


def _new(owner: Owner, begins: Begins) -> dict[str, Any]:
    places = {"inputs_begin": begins.inputs, "outputs_begin": begins.outputs}
    return {"flow": "vigie", **owner._asdict(), "made_at": microseconds(datetime.now(UTC)), **places, "processes": 0}


def _checked(directory: Path, parts: Sequence[Path], owner: Owner) -> dict[str, Any] | None:
    """What the store's first start noted of it, where that fits; None for a store of nobody so far."""
    noted = _noted(directory)
    if noted is None:
        # New, or made with `python -m bytewax.recovery`: its first flow owns it.
        if any(_has_states(part) for part in parts):
            raise InvalidStore(
                f"{directory} holds states but no {IDENTITY}, so nobody knows whose they are; "
                "use another recovery directory"
            )
        return None
    if noted.get("flow") != "vigie":
        raise InvalidStore(f"{directory} belongs to the flow {noted.get('flow')!r}; use another recovery directory")
    if "reach" not in noted:
        raise InvalidStore(
            f"{directory} was made by an earlier version of Vigie, which saved states in another form; use an empty "
            "recovery directory and `just warm`"
        )
    if noted["reach"] < owner.reach:
        raise InvalidStore(
            f"{directory} keeps the past as far as {noted['reach'] * MICROSECOND}, and windows of this model reach "
            f"{owner.reach * MICROSECOND} back; use a model whose windows reach no further, or an empty recovery "
            "directory and `just warm`"
        )
    if noted["topics"] != owner.topics:
        raise InvalidStore(
            f"{directory} holds positions in other topics (Kafka's ids are {noted['topics']}, here they are "
            f"{owner.topics}): they were deleted and made again, or belong to another Kafka or other settings; "
            "use the topics that it belongs to, or an empty recovery directory and `just warm`"
        )
    if UNFINISHED in noted:
        raise InvalidStore(
            f"{directory} was to be filled by `just warm`, which has not ended well; run it again, or use another "
            "recovery directory"
        )
    return noted


def _noted(directory: Path) -> dict[str, Any] | None:
    file = directory / IDENTITY
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidStore(f"{file} cannot be read ({error}); restore it, or use another recovery directory") from error
    return found


def _note(directory: Path, noted: Mapping[str, Any]) -> dict[str, Any]:
    partial = directory / f".{IDENTITY}"
    partial.write_text(json.dumps(noted))
    sync(partial)
    partial.replace(directory / IDENTITY)
    sync(directory)
    return dict(noted)


def _parts(directory: Path) -> list[Path]:
    """The store's partitions, all of them; made where there is none."""
    making = directory / MAKING
    if making.exists() or not list(directory.glob("part-*.sqlite3")):
        # The mark stays where this is cut short; then some files are there, or halves of them, and nothing is in them.
        making.touch()
        sync(directory)
        for half in directory.glob("part-*.sqlite3*"):
            half.unlink()
        init_db_dir(directory, PARTITIONS)  # type: ignore[no-untyped-call]  # bytewax ships it without types
        making.unlink()
        _log.info("new recovery store", extra={"directory": directory, "partitions": PARTITIONS})
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
_CUT_SHORT: Final = "DELETE FROM snaps WHERE snap_epoch >= {:d}"
# The marks of states that were dropped, where nothing older is left that they hide; Bytewax keeps them for ever.
_SPENT: Final = """
DELETE FROM snaps AS mark WHERE ser_change IS NULL AND snap_epoch < (SELECT min(commit_epoch) FROM commits)
AND NOT EXISTS (SELECT 1 FROM snaps AS older WHERE older.step_id = mark.step_id
                AND older.state_key = mark.state_key AND older.snap_epoch < mark.snap_epoch)
"""


def _has_states(part: Path) -> bool:
    return bool(_rows(part, "SELECT 1 FROM snaps LIMIT 1"))


def _write(part: Path, *statements: str) -> list[int]:
    """Executes all or none; returns how many rows each has changed."""
    try:
        with closing(sqlite3.connect(part)) as connection, connection:
            return [connection.execute(statement).rowcount for statement in statements]
    except sqlite3.Error as error:
        raise InvalidStore(f"{part} cannot be cleaned ({error}); restore it from a backup") from error


def _rows(part: Path, query: str, *values: str) -> list[tuple[int, ...]]:
    try:
        with closing(sqlite3.connect(part)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise InvalidStore(f"{part} cannot be read ({error}); restore it from a backup") from error
