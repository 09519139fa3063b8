"""One axis for the events of many keys, on which a position costs one binary search.

Events are sorted by key, then by time. Each has a place on the axis, ``at``, in microseconds. Neighbours lie as far
apart as in time, but no farther than the reach, which is also how far apart two keys lie. So a distance below the reach
is exact, and one of the reach or more, in time or to another key, is no less here. "How many events of my key have
ts <= t - offset", for an offset up to the reach, is then one search for ``at - offset`` in ``at``. It also counts all
events of the keys before, which a difference of two positions does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

CHUNK: Final = 1 << 16  # rows; half as many and twice as many were measured to be slower
_FARTHEST: Final = 1 << 62  # a place on the axis, at the most, where a chunk has several keys


class Timeline:
    """``keys`` and ``instants`` [rows], sorted by key, then time; ``reach``: the largest offset asked for, above 0.

    ``instants`` are whole microseconds since 1970. One key may have any number of rows, for its places are never
    farther apart than its instants; of several keys take no more rows than ``chunks`` does.
    """

    def __init__(self, keys: Keys, instants: Integers, reach: int) -> None:
        gaps = np.diff(instants)
        gaps[(gaps > reach) | (keys[1:] != keys[:-1])] = reach
        self.at: Integers = np.zeros(len(instants), np.int64)
        np.cumsum(gaps, out=self.at[1:])

    def passed(self, offset: int) -> Integers:
        """For each event, how many events have ts <= t - offset: those of its own key, and all of the keys before."""
        return np.searchsorted(self.at, self.at - offset, side="right")

    def active(self, begins: Integers, ends: Integers, weights: Integers | int = 1) -> Integers:
        """For each event, how many of the intervals hold its place, begin <= at < end, or what these weigh together.

        The intervals, in any order, are given as places: ``at`` of an event and at most the reach more. An interval
        whose begin is its end holds nothing.
        """
        # An edge takes effect at the first event that is not before it; for few edges that is much less to search.
        changes = np.zeros(len(self.at) + 1, np.int64)
        np.add.at(changes, np.searchsorted(self.at, begins), weights)
        np.subtract.at(changes, np.searchsorted(self.at, ends), weights)
        return np.cumsum(changes)[:-1]


def chunks(keys: Keys, reach: int) -> Iterator[slice]:
    """Cuts the sorted ``keys`` between keys, into pieces of at most ``CHUNK`` rows; a larger key is one piece."""
    most = max(1, min(CHUNK, _FARTHEST // reach))
    edges = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))
    begin = 0
    while begin < len(keys):
        # The last edge that a chunk comes to, or, where the next key is larger than a chunk, that key's end.
        last = np.searchsorted(edges, begin + most, side="right") - 1
        end = int(edges[last]) if last >= 0 and edges[last] > begin else int(edges[last + 1])
        yield slice(begin, end)
        begin = end
