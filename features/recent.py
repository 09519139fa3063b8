"""Ids seen of late, to know a transaction that comes again: one table for all accounts of a worker.

Extendible hashing (Fagin, Nievergelt, Pippenger and Strong, 1979): pages of places, and a directory from bits of the
hash to pages. A full page drops what is of no more use, or is split in two; the others are left alone. So there is no
moment at which all has to move: that would be a pause of a tenth of a second for each million ids.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.layout import Integers, lengthen

PLACES: Final = 4096  # of a page, each for a pair
_SPREAD: Final = -7046029254386353131
_FULL: Final = PLACES * 2 // 3  # pairs
_NONE: Final = -1

# places int64 [pages * PLACES, 3]; all 0 where nobody is
_ACCOUNT: Final = 0
_ID: Final = 1
_TIME: Final = 2  # the event time, and one microsecond more, so that nobody's is 0

# pages int64 [pages, 2]
_TAKEN: Final = 0
_DEPTH: Final = 1  # how many bits of the hash all pairs of the page share

Flags = NDArray[np.bool_]


class RecentIds:
    """Pairs of hashes (an account's, a transaction id's) with the event time of each."""

    def __init__(self) -> None:
        self._places = np.zeros((PLACES, 3), np.int64)
        self._pages = np.zeros((1, 2), np.int64)
        self._directory = np.zeros(1, np.int64)
        self._count = 1  # pages in use

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._places.nbytes + self._pages.nbytes + self._directory.nbytes

    def repeats(self, accounts: Integers, ids: Integers, instants: Integers, too_late: Flags, since: int) -> Flags:
        """For each row in order, whether its pair was taken in before with an event time of ``since`` or later.

        ``instants`` in microseconds since 1970, none before that; ``since`` never goes back. A row that is no repeat
        and not ``too_late`` is taken in; where its pair has an older time, that is replaced.
        """
        repeated = np.zeros(len(ids), np.bool_)
        a, b, t = (np.ascontiguousarray(column, np.int64) for column in (accounts, ids, instants))
        late = np.ascontiguousarray(too_late, np.bool_)
        if not a.shape == b.shape == t.shape == late.shape:  # the kernel checks no index
            raise ValueError(f"shapes {a.shape}, {b.shape}, {t.shape}, {late.shape}; give columns of one length")
        done, least = 0, max(since, 0)
        while True:
            table = (self._places, self._pages, self._directory)
            done, full = _look(*table, a, b, t, late, least, repeated, done)
            if full == _NONE:
                return repeated
            self._make_room(full, least)

    def _make_room(self, page: int, since: int) -> None:
        """Leaves a page half empty: without what is of no more use or, where that is not enough, by another one."""
        if 2 * _drop(self._places, self._pages, page, since) <= PLACES:
            return
        if self._count == len(self._pages):
            lengthen(self._pages, self._count + 1)
        if (self._count + 1) * PLACES > len(self._places):
            lengthen(self._places, (self._count + 1) * PLACES)
        if 1 << self._pages[page, _DEPTH] == len(self._directory):
            self._directory = np.concatenate([self._directory, self._directory])
        _split(self._places, self._pages, self._directory, page, self._count)
        self._count += 1


@compiled
def _hash(account: int, number: int) -> int:
    return ((account * _SPREAD) ^ number) * _SPREAD


@compiled
def _place(places: Integers, page: int, hashed: int, account: int, number: int) -> int:
    """Where the page has the pair, or the empty place where it belongs."""
    base = page * PLACES
    at = (hashed >> 32) & (PLACES - 1)
    while places[base + at, _TIME] != 0 and not (
        places[base + at, _ACCOUNT] == account and places[base + at, _ID] == number
    ):
        at = (at + 1) & (PLACES - 1)
    return base + at


@compiled
def _page(directory: Integers, hashed: int) -> int:
    return int(directory[(hashed >> 44) & (len(directory) - 1)])


@compiled
def _look(
    places: Integers,
    pages: Integers,
    directory: Integers,
    accounts: Integers,
    ids: Integers,
    instants: Integers,
    too_late: Flags,
    since: int,
    repeated: Flags,
    begin: int,
) -> tuple[int, int]:
    """The rows from ``begin`` on, until a page is full: where it stopped, and for which page."""
    for i in range(begin, len(ids)):
        hashed = _hash(accounts[i], ids[i])
        page = _page(directory, hashed)
        at = _place(places, page, hashed, accounts[i], ids[i])
        if places[at, _TIME] > since:
            repeated[i] = True
        elif not too_late[i]:
            if places[at, _TIME] == 0:
                if pages[page, _TAKEN] == _FULL:
                    return i, page
                pages[page, _TAKEN] += 1
                places[at, _ACCOUNT], places[at, _ID] = accounts[i], ids[i]
            places[at, _TIME] = max(places[at, _TIME], instants[i] + 1)
    return len(ids), _NONE


@compiled
def _drop(places: Integers, pages: Integers, page: int, since: int) -> int:
    """Leaves out of a page what is of no more use; how many pairs it has then."""
    base, used = page * PLACES, 0
    for at in range(base, base + PLACES):
        used += places[at, _TIME] > since
    if used != pages[page, _TAKEN]:
        _deal(places, pages, page, page, 0, since)
    return used


@compiled
def _split(places: Integers, pages: Integers, directory: Integers, page: int, other: int) -> None:
    """Moves the pairs whose next bit is set to the other page, which is empty; the page is not."""
    bit = 1 << pages[page, _DEPTH]
    pages[page, _DEPTH] += 1
    pages[other, _DEPTH] = pages[page, _DEPTH]
    at = page * PLACES
    while places[at, _TIME] == 0:
        at += 1
    shared = (_hash(places[at, _ACCOUNT], places[at, _ID]) >> 44) & (bit - 1)
    for entry in range(shared + bit, len(directory), 2 * bit):
        directory[entry] = other
    _deal(places, pages, page, other, bit, 0)


@compiled
def _deal(places: Integers, pages: Integers, page: int, other: int, bit: int, since: int) -> None:
    """Puts the pairs of a page that are of use back into it or, where the bit of their hash is set, into the other."""
    before = places[page * PLACES : (page + 1) * PLACES].copy()
    places[page * PLACES : (page + 1) * PLACES] = 0
    pages[page, _TAKEN] = 0
    for i in range(PLACES):
        account, number, time = before[i, _ACCOUNT], before[i, _ID], before[i, _TIME]
        if time > since:
            hashed = _hash(account, number)
            to = other if (hashed >> 44) & bit else page
            at = _place(places, to, hashed, account, number)
            places[at, _ACCOUNT], places[at, _ID], places[at, _TIME] = account, number, time
            pages[to, _TAKEN] += 1
