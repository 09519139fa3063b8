"""Features of all accounts, or of all merchants, event by event; to the bit what ``features.batch`` computes.

Every entity's events lie sorted by time in a slab of arrays that all share. A cursor for each window offset remembers
how many events it has passed and their running sums, so that a window is the difference of two cursors and costs the
same however long it is; so it is with the texts of events, which are counted as they enter and leave a window. The
work is done by ``features.kernels``, a batch a call; here are the keys, the labels and the room.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import repeat
from typing import Final

import numpy as np

from features.compaction import Compaction
from features.frauds import KnownFrauds
from features.kernels import GET, TAKE, UPDATE, LabelArrays, StateArrays, run, sweep
from features.layout import (
    CHAINS,
    CLASSES,
    COUNTS,
    CURSOR,
    CURSORS,
    ENTRIES_TOP,
    FOR_FRAUDS,
    FOR_SLABS,
    KNOWN,
    SIZE,
    SLAB_FREE,
    SLABS_LIVE,
    SLABS_TOP,
    START,
    STOPPED,
    UNUSED,
    Floats,
    Integers,
    lengthen,
)
from features.plan import Plan
from features.transaction import Label

__all__ = ["EntityStates", "Plan"]

_MISSING: Final = hash(None)
_CALLS: Final = 4096  # of ``forget``, in which every entity is seen once
_MOVED: Final = 64  # slots for each event that a compaction looks at: many more than one needs, so that it soon ends
_BYTES_A_KEY: Final = 120  # a text, its number, and its place in the list of keys


class Rows(dict[str, int]):
    """The row of each key; asking for a new key gives it one. Row 0 is nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_of = [""]
        self._free: list[int] = []

    def __missing__(self, key: str) -> int:
        if self._free:
            row = self._free.pop()
            self.keys_of[row] = key
        else:
            row = len(self.keys_of)
            self.keys_of.append(key)
        self[key] = row
        return row

    def release(self, row: int) -> None:
        """The row's key goes, and the row may be another's."""
        del self[self.keys_of[row]]
        self.keys_of[row] = ""
        self._free.append(row)


class EntityStates:
    """The recent events and labels of all entities of one kind. No method may run beside another."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._index = Rows()
        self._frauds = KnownFrauds()
        self._until = -1
        self._hand = 1
        self._compaction: Compaction | None = None
        fields = len(plan.fields)
        self._rows = np.zeros((1, CURSORS + CURSOR * plan.cursors + plan.tallies), np.int64)
        self._events = np.zeros((64, 2), np.int64)
        self._refs = np.zeros((64, fields), np.int32)
        self._entries = np.zeros((64 if fields else 1, COUNTS + plan.tallies_of_a_field), np.int32)
        self._heads = np.zeros(len(self._entries), np.int32)
        self._marks = np.zeros(SLAB_FREE + CLASSES, np.int64)
        self._marks[[ENTRIES_TOP, CHAINS]] = 1
        self._plan_arrays = (plan.offsets, plan.starts, plan.passing, plan.windows, plan.steps)
        self._nothing = np.zeros((1, len(plan.features)), np.float32)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, of the index of keys and of the labels; the latter two as estimates."""
        index = sys.getsizeof(self._index) + len(self._index) * _BYTES_A_KEY
        return sum(array.nbytes for array in self._arrays()) + index + self._frauds.nbytes

    def take(
        self,
        keys: Sequence[str],
        instants: Integers,
        amounts: Integers,
        texts: Sequence[Sequence[str | None]],
        out: Floats,
    ) -> None:
        """Row by row: the entity's features, from the other events known so far; then the event is taken in.

        ``instants`` in microseconds since 1970, ``amounts`` in minor units; ``texts``: a column for each of the plan's
        fields; ``out`` float32 [rows, features].
        """
        self._run(TAKE, keys, instants, amounts, texts, out)

    def update(
        self, keys: Sequence[str], instants: Integers, amounts: Integers, texts: Sequence[Sequence[str | None]]
    ) -> None:
        """Takes the events in, as ``take`` does, without their features."""
        self._run(UPDATE, keys, instants, amounts, texts, None)

    def get(
        self,
        keys: Sequence[str],
        instants: Integers,
        amounts: Integers,
        texts: Sequence[Sequence[str | None]],
        out: Floats,
    ) -> None:
        """The features that such events would have now, as in ``take``; nothing is taken in."""
        self._run(GET, keys, instants, amounts, texts, out)

    def label(self, key: str, label: Label) -> None:
        """Takes in what became known of a transaction; labels may come before it, repeat, and contradict each other."""
        if not self.plan.with_labels:
            return
        row = self._index[key]
        self._make_rows()
        if not self._rows[row, KNOWN]:
            self._rows[row, KNOWN] = self._frauds.number()
            self._rows[row, START] = max(self._rows[row, START], 0)
        self._frauds.add(int(self._rows[row, KNOWN]), label)

    def forget(self, watermark: int) -> int:
        """Drops what no window reaches, now that no event before ``watermark`` will come; how many entities it dropped.

        A call looks at a share of the entities, so that each is seen once in 4,096 calls (fewer where there are less
        than 65,536 of them). Seen, it keeps an eighth of its events at most that are of no more use, and labels none;
        it is dropped when nothing is left. Between, an entity drops old events before its slab grows.
        """
        self._until = max(self._until, watermark - self.plan.reach)
        rows = len(self._index.keys_of)
        share = rows // _CALLS + 16
        begin = self._hand if self._hand < rows else 1
        self._hand = min(begin + share, rows)
        idle = np.empty(share, np.int64)
        listed = sweep(self._plan_arrays, self._arrays(), self._labels(), self._until, begin, self._hand, idle)
        dropped = 0
        for number in idle[:listed].tolist():
            row = abs(number)
            if number < 0 and self._frauds.forget(int(self._rows[row, KNOWN]), self._until):
                self._rows[row, KNOWN] = 0
            if not self._rows[row, KNOWN] and not self._rows[row, SIZE]:
                self._index.release(row)
                self._rows[row] = 0
                self._rows[row, START] = UNUSED
                dropped += 1
        return dropped

    def _arrays(self) -> StateArrays:
        return self._rows, self._events, self._refs, self._entries, self._heads, self._marks

    def _labels(self) -> LabelArrays:
        return self._frauds.known, self._frauds.frauds

    def _run(
        self,
        mode: int,
        keys: Sequence[str],
        instants: Integers,
        amounts: Integers,
        texts: Sequence[Sequence[str | None]],
        out: Floats | None,
    ) -> None:
        n = len(keys)
        words = np.empty((len(texts), n), np.int64)
        for i, column in enumerate(texts):
            words[i] = np.fromiter(map(hash, column), np.int64, n)
        times, sums = (np.ascontiguousarray(column, np.int64) for column in (instants, amounts))
        # The kernel checks no index.
        if times.shape != (n,) or sums.shape != (n,) or len(texts) != len(self.plan.fields):
            got = f"{n} keys, instants {times.shape}, amounts {sums.shape}, {len(texts)} columns of texts"
            raise ValueError(f"{got}; give as many of each, and texts of {self.plan.fields}")
        if out is not None and (out.shape != (n, len(self.plan.features)) or out.dtype != np.float32):
            raise ValueError(f"out is {out.dtype} {out.shape}; give float32 ({n}, {len(self.plan.features)})")
        # A key that only asks is nobody's as long as nothing is known of it.
        rows = map(self._index.get, keys, repeat(0)) if mode == GET else map(self._index.__getitem__, keys)
        numbers = np.fromiter(rows, np.int64, n)
        self._make_rows()
        if self._compaction is not None:
            self._go_on_compacting(_MOVED * n)
        values = self._nothing if out is None else out if out.flags.c_contiguous else np.empty(out.shape, np.float32)
        done = 0
        while True:
            batch = (numbers, times, sums, words, values, done)
            done = run(mode, self._plan_arrays, self._arrays(), self._labels(), self._until, _MISSING, *batch)
            if done == n:
                break
            self._see_to(int(numbers[done]), int(times[done]))
        if out is not None and values is not out:
            out[...] = values

    def _see_to(self, row: int, t: int) -> None:
        """Gives the kernel what it stopped for."""
        stopped = self._marks[STOPPED]
        if stopped == FOR_FRAUDS:
            of = self._rows[row]
            self._frauds.work_out(int(of[KNOWN]), self._events[of[START] : of[START] + of[SIZE]], t)
        elif stopped == FOR_SLABS:
            self._make_slabs(int(self._rows[row, SIZE]))
        else:
            self._make_entries()

    def _make_rows(self) -> None:
        """Room for the entities of the index."""
        had, need = len(self._rows), len(self._index.keys_of)
        if need > had:
            lengthen(self._rows, need)
            self._rows[had:, START] = UNUSED

    def _make_slabs(self, size: int) -> None:
        """Room for slabs: longer pools; and where a third of the slots is free, these are about to go."""
        if 3 * self._marks[SLABS_LIVE] < 2 * self._marks[SLABS_TOP]:
            self.compact()
        for pool in (self._events, self._refs):
            lengthen(pool, len(pool) + 2 * size)

    def compact(self) -> None:
        """From now on, with each batch, some of the events move together, until no slots are free between them."""
        self._compaction = self._compaction or Compaction(self._marks)

    def _go_on_compacting(self, slots: int) -> None:
        """When all is done, the pools end a quarter above their last slab."""
        assert self._compaction is not None
        if self._compaction.step(self._rows, self._events, self._refs, self._marks, slots):
            self._compaction = None
            length = int(self._marks[SLABS_TOP]) * 5 // 4 + 64
            for pool in (self._events, self._refs):
                pool.resize((min(length, len(pool)), pool.shape[1]), refcheck=False)

    def _make_entries(self) -> None:
        for array in (self._entries, self._heads):
            lengthen(array, len(array) + len(self.plan.fields))
