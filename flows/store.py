"""The recovery store before the engine opens it: whole, of this flow, and free of what must not be resumed from.

Bytewax leaves in the store what an epoch had written when it was cut short, and uses the epoch's number again. After
two crashes in a row it can so take up a state that belongs to the first run, and count input twice. ``prepare`` removes
those rows; it runs in every process before its engine starts, and no engine starts before all processes are there.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from bytewax.recovery import init_db_dir

from features.errors import InvalidStore

PARTITIONS: Final = 32  # many, since resuming takes the square of the rows in one; fixed for the store's life
IDENTITY: Final = "vigie.json"
UNFINISHED: Final = "unfinished"  # in the identity, of a store that is being filled

Ends = dict[str, list[int]]

_log = logging.getLogger(__name__)
_held: list[TextIO] = []  # locks live as long as the process


def directory_of(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """The recovery directory that ``bytewax.run`` will use: its option, or its variable; None without recovery."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-r", "--recovery-directory", default=environment.get("BYTEWAX_RECOVERY_DIRECTORY"))
    found = parser.parse_known_args(arguments)[0].recovery_directory
    return Path(found) if found else None


def prepare(directory: Path, fingerprint: str, process: str, ends: Callable[[], Ends]) -> Ends:
    """Makes a new store, or checks one and cleans it; holds it for this process until the process ends.

    ``fingerprint``: of the feature definitions that the states belong to. ``ends`` gives the next offset of each
    partition of the output topics; a new store notes them. Returns what the store noted. Raises ``InvalidStore``
    where the store is incomplete, belongs to something else, or is in use by a process of the same name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _hold(directory / f"process-{process}.lock", process)
    with _alone(directory / "prepare.lock"):
        if not list(directory.glob("part-*.sqlite3")):
            init_db_dir(directory, PARTITIONS)  # type: ignore[no-untyped-call]  # bytewax ships it without types
            _log.info("new recovery store", extra={"directory": directory, "partitions": PARTITIONS})
            return _identify(directory, fingerprint, ends())
        noted = _check_identity(directory, fingerprint, ends)
        parts = _parts(directory)
        epoch = _resume_epoch(parts)
        removed = sum(_remove_from(part, epoch) for part in parts)
    _log.info("recovery store", extra={"directory": directory, "resume_epoch": epoch, "cut_short_rows": removed})
    return noted


def begin(directory: Path, fingerprint: str, process: str, ends: Ends) -> None:
    """Makes a new store, or takes one without states, to be filled by other means than the flow, and holds it.

    Until ``finish`` the flow refuses it, and ``begin`` would empty it and start over. ``ends``: where the flow's part
    of the output topics begins; what the store noted before stands where it is earlier. Raises ``InvalidStore`` where
    the store has states, or is incomplete or in use.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _hold(directory / f"process-{process}.lock", process)
    with _alone(directory / "prepare.lock"):
        if not list(directory.glob("part-*.sqlite3")):
            init_db_dir(directory, PARTITIONS)  # type: ignore[no-untyped-call]  # bytewax ships it without types
        parts = _parts(directory)
        identity = _identity(directory) or {}
        if UNFINISHED not in identity and any(_rows(part, "SELECT 1 FROM snaps LIMIT 1") for part in parts):
            raise InvalidStore(
                f"{directory} holds states already, and the flow goes on from them; use another recovery directory, or "
                "remove this one to begin anew"
            )
        noted = identity.get("outputs_begin", {})
        earlier = {topic: list(map(min, ends[topic], noted.get(topic, ends[topic]))) for topic in ends}
        _identify(directory, fingerprint, earlier, unfinished=True)
        for part in parts:
            _write(part, "DELETE FROM snaps", "DELETE FROM fronts", "DELETE FROM exs", "DELETE FROM commits")


def begins(directory: Path) -> Ends:
    """Where the flow's part of the output topics begins, as the store has noted it."""
    noted: Ends = (_identity(directory) or {})["outputs_begin"]
    return noted


def finish(directory: Path, fingerprint: str, ends: Ends) -> None:
    """Makes what ``begin`` began the flow's, with ``ends`` as there; it is on disk when this returns."""
    for part in _parts(directory):
        _rows(part, "PRAGMA wal_checkpoint(TRUNCATE)")
        _sync(part)
    _identify(directory, fingerprint, ends)


def keys(directory: Path, step_id: str) -> int:
    """How many keys of a step have a state."""
    query = "SELECT count(DISTINCT state_key) FROM snaps WHERE step_id = ? AND ser_change IS NOT NULL"
    return sum(_rows(part, query, step_id)[0][0] for part in _parts(directory))


def _identify(directory: Path, fingerprint: str, ends: Ends, *, unfinished: bool = False) -> Ends:
    """Notes whose store it is, and where the flow's part of the output topics begins."""
    content = {"flow": "vigie", "features": fingerprint, "outputs_begin": ends}
    partial = directory / f".{IDENTITY}"
    partial.write_text(json.dumps(content | ({UNFINISHED: True} if unfinished else {})))
    _sync(partial)
    partial.replace(directory / IDENTITY)
    _sync(directory)
    return ends


def _identity(directory: Path) -> dict[str, Any] | None:
    """What was noted; None where nothing was."""
    file = directory / IDENTITY
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidStore(f"{file} cannot be read ({error}); restore it, or use another recovery directory") from error
    return found


def _check_identity(directory: Path, fingerprint: str, ends: Callable[[], Ends]) -> Ends:
    identity = _identity(directory)
    if identity is None:
        # Made with `python -m bytewax.recovery`, and so far of nobody: its first flow owns it.
        if any(_rows(part, "SELECT 1 FROM snaps LIMIT 1") for part in _parts(directory)):
            raise InvalidStore(
                f"{directory} holds states but no {IDENTITY}, so nobody knows whose they are; "
                "use another recovery directory"
            )
        return _identify(directory, fingerprint, ends())
    if identity.get("flow") != "vigie":
        raise InvalidStore(f"{directory} belongs to the flow {identity.get('flow')!r}; use another recovery directory")
    if identity.get("features") != fingerprint:
        raise InvalidStore(
            f"{directory} holds the states of other features (fingerprint {identity.get('features')}, this model has "
            f"{fingerprint}); use the model they belong to, or an empty recovery directory and replay the last weeks"
        )
    if UNFINISHED in identity:
        raise InvalidStore(
            f"{directory} was to be filled by `just warm`, which has not ended well; run it again, or use another "
            "recovery directory"
        )
    noted: Ends = identity["outputs_begin"]
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
        raise InvalidStore(f"{directory} lacks the partitions {missing}; put the files back, or restore a backup")
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


def _remove_from(part: Path, epoch: int) -> int:
    """Removes what belongs to the epoch and later ones; returns how many rows."""
    return _write(part, f"DELETE FROM snaps WHERE snap_epoch >= {epoch:d}")  # noqa: S608  # a number


def _write(part: Path, *statements: str) -> int:
    """Executes all or none; returns how many rows were changed."""
    try:
        with closing(sqlite3.connect(part)) as connection, connection:
            return sum(connection.execute(statement).rowcount for statement in statements)
    except sqlite3.Error as error:
        raise InvalidStore(f"{part} cannot be cleaned ({error}); restore it from a backup") from error


def _rows(part: Path, query: str, *values: str) -> list[tuple[int, ...]]:
    try:
        with closing(sqlite3.connect(part)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise InvalidStore(f"{part} cannot be read ({error}); restore it from a backup") from error


def _sync(path: Path) -> None:
    """Returns when the file, or the names in the folder, are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _hold(file: Path, process: str) -> None:
    lock = file.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InvalidStore(
            f"{file.parent} is in use by another process {process} of the flow; stop it, or use another directory"
        ) from error
    _held.append(lock)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
