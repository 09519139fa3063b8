"""Who works in a recovery directory: each process of a flow holds a lock there, named by its number and their count.

So nobody works in a copy, processes of one start do not mix with those of another, and two never work as one.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from features.errors import InvalidStore
from flows.invocation import Invocation

PROBED: Final = 1.0  # seconds; a peer that looks whether a lock is held has it for a moment

_held: list[TextIO] = []  # locks live as long as the process


def call(directory: Path, place: Invocation, patience: float) -> None:
    """Takes this process's place in the directory, and returns when all of its peers have taken theirs.

    ``patience``: seconds to wait for them. Raises ``InvalidStore`` where the place is taken, where peers do not come,
    or where a process works there that is none of them.
    """
    # Held before it is looked around: of two starts that meet, at least one sees the other.
    _hold(directory, place)
    give_up = time.monotonic() + PROBED
    of_others = sorted(set(directory.glob("process-*.lock")) - set(directory.glob(f"process-*-of-{place.count}.lock")))
    while others := [file.stem for file in of_others if _is_held(file)]:
        if time.monotonic() > give_up:
            raise InvalidStore(
                f"{directory} is in use by {', '.join(others)} of a start with another number of processes than "
                f"{place.count}; stop them"
            )
        time.sleep(0.05)
    give_up = time.monotonic() + patience
    peers = [index for index in range(place.count) if index != place.index]
    while absent := [index for index in peers if not _is_held(_file(directory, index, place.count))]:
        if time.monotonic() > give_up:
            raise InvalidStore(
                f"the processes {absent} of the flow did not start to work in {directory} within {patience:g} s; all "
                "processes need the same recovery directory, not copies of it: start them, or mend their settings"
            )
        time.sleep(0.05)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    with (directory / "prepare.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _file(directory: Path, index: int, count: int) -> Path:
    return directory / f"process-{index}-of-{count}.lock"


def _hold(directory: Path, place: Invocation) -> None:
    lock = _file(directory, place.index, place.count).open("a")
    give_up = time.monotonic() + PROBED
    while not _try_lock(lock, fcntl.LOCK_EX):
        if time.monotonic() > give_up:
            lock.close()
            raise InvalidStore(
                f"{directory} is in use by another process {place.index} of the flow; stop it, or use another directory"
            )
        time.sleep(0.05)
    _held.append(lock)


def _is_held(file: Path) -> bool:
    """Whether a process holds the lock; those who only look do not disturb each other."""
    try:
        with file.open() as lock:
            return not _try_lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _try_lock(lock: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
