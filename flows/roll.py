"""Who works in a recovery directory: each process of a flow holds a lock there, under its number, while it lives.

So nobody works in a copy, no process of an earlier start is left over, and two never work as one.
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
    _hold(directory, place.index)
    give_up = time.monotonic() + patience
    while absent := [i for i in range(place.count) if i != place.index and not _is_held(directory, i)]:
        if time.monotonic() > give_up:
            raise InvalidStore(
                f"the processes {absent} of the flow did not start to work in {directory} within {patience:g} s; all "
                "processes need the same recovery directory, not copies of it: start them, or mend their settings"
            )
        time.sleep(0.05)
    numbers = sorted(int(file.stem.removeprefix("process-")) for file in directory.glob("process-*.lock"))
    if left := [i for i in numbers if i >= place.count and _is_held(directory, i)]:
        raise InvalidStore(
            f"{directory} is in use by the processes {left} of an earlier start that had more than {place.count}; "
            "stop them"
        )


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    with (directory / "prepare.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _file(directory: Path, index: int) -> Path:
    return directory / f"process-{index}.lock"


def _hold(directory: Path, index: int) -> None:
    lock = _file(directory, index).open("a")
    give_up = time.monotonic() + PROBED
    while not _try_lock(lock):
        if time.monotonic() > give_up:
            lock.close()
            raise InvalidStore(
                f"{directory} is in use by another process {index} of the flow; stop it, or use another directory"
            )
        time.sleep(0.05)
    _held.append(lock)


def _is_held(directory: Path, index: int) -> bool:
    try:
        with _file(directory, index).open() as lock:
            return not _try_lock(lock)
    except FileNotFoundError:
        return False


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
