"""Who works in a recovery directory: process 0 of one flow, which holds a lock there and leaves its mark.

The other processes need no store, but Bytewax wants a recovery directory in each: an empty one, or on one machine that
of process 0 itself. A copy of it would have Bytewax resume from either; the mark tells it from the original.
"""

from __future__ import annotations

import fcntl
import uuid
from pathlib import Path
from typing import Final, TextIO

from features.errors import InvalidStore

LOCK: Final = "in-use.lock"

_held: list[TextIO] = []  # locks live as long as the process


def take(directory: Path) -> str:
    """Holds the directory, made where there is none, until this process ends; returns the mark left there.

    The mark is another at every start. Raises ``InvalidStore`` where another process holds the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InvalidStore(f"{directory} is in use by another flow; stop it, or use another directory") from error
    _held.append(lock)
    mark = uuid.uuid4().hex
    lock.truncate(0)
    lock.write(mark)
    lock.flush()
    return mark


def visit(directory: Path, mark: str) -> None:
    """Makes the directory of a process that is not the first, where there is none.

    Raises ``InvalidStore`` where it holds a store that is not the one that process 0 left its ``mark`` in.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / LOCK
    if any(directory.glob("part-*.sqlite3")) and not (lock.exists() and lock.read_text() == mark):
        raise InvalidStore(
            f"{directory} holds a recovery store that is not the one that process 0 works in, perhaps a copy of it; "
            "only process 0 needs the store: give this process an empty directory, or on one machine the same one"
        )
