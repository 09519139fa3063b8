"""Compaction of the events' pool: slabs move down, side by side, in the order in which they lie, a share a batch.

Were it done at once, everything would wait for as long as all events take to copy. Meanwhile slabs are only made at the
top, and freed ones are left where they are; so all that lies below the top of a pass' beginning is in its list.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import compiled
from features.events import copy_event, slab_class
from features.layout import CAPACITY, COMPACTING, SIZE, SLAB_FREE, SLABS_LIVE, SLABS_TOP, START, Integers, Numbers

SHARE: Final = 32_768  # slots at the least of which the slabs move in one step
_GONE: Final = -1  # instead of a start


class Compaction:
    """One that is under way; ends when no slab lies above the hole that it leaves."""

    def __init__(self, marks: Integers) -> None:
        marks[SLAB_FREE:] = 0
        marks[COMPACTING] = 1
        self._starts = np.empty(0, np.int64)  # of each row's slab, when the pass began
        self._from = self._until = self._to = 0  # slots: moved below, the pass ends, slabs move to

    def step(self, rows: Integers, events: Integers, refs: Numbers, marks: Integers, slots: int) -> bool:
        """Moves the slabs of so many slots, or of ``SHARE``; whether that was all, and the pool has room at its end."""
        until = self._from + max(SHARE, slots)
        while self._from < until:
            if self._from == self._until and not self._begin_pass(rows, marks):
                return True
            end = min(until, self._until)
            due = np.flatnonzero((self._starts >= self._from) & (self._starts < end))
            due = due[np.argsort(self._starts[due])]
            self._to = slide(rows, events, refs, marks, due, self._starts[due], self._to)
            self._from = end
        return False

    def _begin_pass(self, rows: Integers, marks: Integers) -> bool:
        """Lists what was made above since the last pass began; False, and no more is under way, where that is none."""
        if self._until == marks[SLABS_TOP]:
            marks[SLABS_TOP], marks[COMPACTING] = self._to, 0
            return False
        self._until = int(marks[SLABS_TOP])
        self._starts = np.where(rows[:, CAPACITY] != 0, rows[:, START], _GONE)
        return True


@compiled
def slide(
    rows: Integers, events: Integers, refs: Numbers, marks: Integers, due: Integers, starts: Integers, to: int
) -> int:
    """Moves the slabs of these rows that still start there down to ``to``; where the next one may begin.

    A slab keeps room for one event more, and what it has beyond goes.
    """
    for i in range(len(due)):
        row = rows[due[i]]
        if row[CAPACITY] == 0 or row[START] != starts[i]:
            continue
        capacity, _ = slab_class(row[SIZE] + 1)
        capacity = min(capacity, row[CAPACITY])
        if to != starts[i]:
            for slot in range(row[SIZE]):
                copy_event(events, refs, starts[i] + slot, to + slot)
        marks[SLABS_LIVE] -= row[CAPACITY] - capacity
        row[START], row[CAPACITY] = to, capacity
        to += capacity
    return to
