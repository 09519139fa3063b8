"""What the flow remembers beyond its own life: every transaction and label that a window may still reach, in files.

The windows' states are nothing but these events put in order. So not the states are saved at the end of an epoch, which
would be each account's whole past again and again, but what the epoch has read, once; and a start makes the states
again from that, with whatever features the model has by then, and for any number of workers. The reader writes it,
since everything comes by it; which part of it is valid is in the reader's recovery state.

A segment (``flows.segment``) goes when no window reaches its newest event any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from features.errors import InvalidStore
from features.transaction import Label
from flows import segment
from flows.records import Transactions
from flows.segment import Events, Segment

BLOCK: Final = 512  # events that are written at once, if the epoch does not end before that; more would be a pause
SEGMENT: Final = 1_000_000  # events, or about that


class Memory(NamedTuple):
    """Where and for how long events are remembered; ``keep`` in microseconds, as far as windows reach."""

    directory: Path
    keep: int


class Position(NamedTuple):
    """What is valid: segments from ``first`` to ``last``, and of the last one so many bytes. Nothing where 0, 0, 0."""

    first: int
    last: int
    length: int


NOTHING: Final = Position(0, 0, 0)


class Journal:
    """The journal of a flow, open where an earlier run had come to; one process has it open."""

    def __init__(self, memory: Memory, position: Position) -> None:
        """Drops what was written beyond the position; raises ``InvalidStore`` where what it names is not there."""
        self._directory, self._keep = memory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._valid = range(position.first, position.last + 1) if position.last else range(0)
        for file in self._directory.glob("*.journal"):
            if file.stem.isdecimal() and int(file.stem) not in self._valid:
                file.unlink()
        if missing := [number for number in self._valid if not self._file(number).exists()]:
            raise InvalidStore(
                f"{self._directory} lacks the segments {missing} of {position.first} to {position.last}: windows would "
                "have holes; put the files back, or use an empty recovery directory and `just warm`"
            )
        if position.last:
            _cut(self._file(position.last), position.length)
        self._newest: dict[int, int] = {}  # of each segment that has ended, the newest instant; known once it was read
        self._first = self._durable = position.first or 1
        self._number = position.last + 1
        self._segment = self._begin()
        self._waiting: list[Events] = []
        self._weight = 0  # how many events wait

    def past(self) -> Iterator[Events]:
        """All that is valid, in the order of writing, in portions; to be read before anything is added.

        Raises ``InvalidStore`` where a file is not as it was written.
        """
        for number in self._valid:
            self._newest[number] = 0
            for transactions, labels in segment.read(self._file(number)):
                self._newest[number] = max(self._newest[number], segment.newest(transactions.timestamp, labels))
                yield transactions, labels

    def add(self, transactions: Transactions, labels: list[Label]) -> None:
        """Takes events in; they are safe when ``save`` has returned."""
        self._waiting.append((transactions, labels))
        self._weight += len(transactions) + len(labels)
        if self._weight >= BLOCK:
            self._write()

    def save(self, watermark: int) -> Position:
        """Returns when everything that was added is on disk. ``watermark``: no event before it will come.

        Deletes what was not needed any more at the save before this one, since that one is durable by now.
        """
        self._write()
        self._segment.sync()
        for number in range(self._durable, self._first):
            self._file(number).unlink(missing_ok=True)
        self._durable = self._first
        while self._newest.get(self._first, watermark) < watermark - self._keep:
            del self._newest[self._first]
            self._first += 1
        position = Position(self._first, self._number, self._segment.length)
        if self._segment.events >= SEGMENT:
            self._newest[self._number] = self._segment.newest
            self._segment.close()
            self._number += 1
            self._segment = self._begin()
        return position

    def close(self) -> None:
        """Leaves what was not saved to be dropped by the next start."""
        self._segment.close()

    def _write(self) -> None:
        if self._weight:
            self._segment.write(self._waiting)
            self._waiting, self._weight = [], 0

    def _begin(self) -> Segment:
        begun = Segment(self._file(self._number))
        sync(self._directory)
        return begun

    def _file(self, number: int) -> Path:
        return self._directory / f"{number:08d}.journal"


def _cut(file: Path, length: int) -> None:
    if (size := file.stat().st_size) < length:
        raise InvalidStore(
            f"{file} has {size:,} bytes, and {length:,} were saved: windows would have holes; put the file back, or "
            "use an empty recovery directory and `just warm`"
        )
    os.truncate(file, length)


def sync(path: Path) -> None:
    """Returns when the file, or the names in the folder, are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
