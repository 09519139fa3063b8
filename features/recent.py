"""Ids seen of late, to know a transaction that comes again: one table for all accounts of a worker."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.layout import Integers

_EMPTY: Final = -1  # as an instant
_SPREAD: Final = -7046029254386353131
_SMALLEST: Final = 64

Flags = NDArray[np.bool_]


class RecentIds:
    """Pairs of hashes (an account's, a transaction id's) with the event time of each.

    When the table is two thirds full it is made anew, without the pairs that are of no more use, and so large that a
    third of it is full at the most.
    """

    def __init__(self) -> None:
        self._table = _table(_SMALLEST)
        self._taken = 0

    def __len__(self) -> int:
        """How many pairs it holds, of use or not."""
        return self._taken

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._table.nbytes

    def repeats(self, accounts: Integers, ids: Integers, instants: Integers, too_late: Flags, since: int) -> Flags:
        """For each row in order, whether its pair was taken in before with an event time of ``since`` or later.

        A row that is no repeat and not ``too_late`` is taken in; where its pair has an older time, that is replaced.
        """
        repeated = np.zeros(len(ids), np.bool_)
        a, b, t = (np.ascontiguousarray(column, np.int64) for column in (accounts, ids, instants))
        late = np.ascontiguousarray(too_late, np.bool_)
        if not a.shape == b.shape == t.shape == late.shape:  # the kernel checks no index
            raise ValueError(f"shapes {a.shape}, {b.shape}, {t.shape}, {late.shape}; give columns of one length")
        done = 0
        while True:
            done, self._taken = _look(self._table, a, b, t, late, since, repeated, done, self._taken)
            if done == len(ids):
                return repeated
            self._rebuild(since)

    def _rebuild(self, since: int) -> None:
        used = int(np.count_nonzero(self._table[:, 2] >= max(since, 0)))
        size = _SMALLEST
        while size < 3 * used:
            size *= 2
        table = _table(size)
        self._taken = _refill(self._table, table, since)
        self._table = table


def _table(size: int) -> Integers:
    """Int64 [a power of two, 3]: account, id, instant."""
    return np.full((size, 3), _EMPTY, np.int64)


@compiled
def _place(table: Integers, account: int, number: int) -> int:
    """Where the pair is, or the empty place where it belongs."""
    at = ((account * _SPREAD ^ number) * _SPREAD >> 32) & (len(table) - 1)
    while table[at, 2] != _EMPTY and not (table[at, 0] == account and table[at, 1] == number):
        at = (at + 1) & (len(table) - 1)
    return at


@compiled
def _look(
    table: Integers,
    accounts: Integers,
    ids: Integers,
    instants: Integers,
    too_late: Flags,
    since: int,
    repeated: Flags,
    begin: int,
    taken: int,
) -> tuple[int, int]:
    """The rows from ``begin`` on, until the table is full: where it stopped, and how many pairs there are."""
    for i in range(begin, len(ids)):
        at = _place(table, accounts[i], ids[i])
        known = table[at, 2]
        if known != _EMPTY and known >= since:
            repeated[i] = True
        elif not too_late[i]:
            if known == _EMPTY:
                if 3 * (taken + 1) > 2 * len(table):
                    return i, taken
                taken += 1
                table[at, 0], table[at, 1] = accounts[i], ids[i]
            table[at, 2] = max(known, instants[i])
    return len(ids), taken


@compiled
def _refill(table: Integers, larger: Integers, since: int) -> int:
    """Puts the pairs that are of use into an empty table; how many."""
    taken = 0
    for i in range(len(table)):
        if table[i, 2] != _EMPTY and table[i, 2] >= since:
            at = _place(larger, table[i, 0], table[i, 1])
            larger[at, 0], larger[at, 1], larger[at, 2] = table[i, 0], table[i, 1], table[i, 2]
            taken += 1
    return taken
