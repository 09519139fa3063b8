"""The events that are known as frauds, from the labels that came for their entities.

The labels lie here, entity by entity; what the kernels need of them is worked out for one instant at a time, and holds
from BEGIN to before END, between which no label was given.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from typing import Final

import numpy as np

from features.layout import AMOUNT, BEGIN, COUNT, END, FRAUDS, INSTANT, NEVER, NEWEST, OLDEST, Integers
from features.transaction import Label

# transaction_id -> its timestamp, and what was said of it when: (labelled_at, is_fraud), sorted
Labels = dict[str, tuple[int, list[tuple[int, bool]]]]

_WIDTH: Final = 6
_BYTES_A_LABEL: Final = 400  # as Python's objects go


class KnownFrauds:
    """The labels of all entities that have some, each under a number from 1 on.

    ``known`` int64 [numbers, 6]: see ``features.layout``. ``frauds`` int64 [places, 2]: each entity's known frauds, by
    time, one for each transaction that was called a fraud: instant, and the sum of the amounts of those before; one
    place more holds the sum of all. Of several events at a fraud's instant the largest amount stands for it.
    """

    def __init__(self) -> None:
        self.labels: dict[int, Labels] = {}
        self.known = np.zeros((4, _WIDTH), np.int64)
        self.frauds = np.zeros((16, 2), np.int64)
        self._top = 1  # the first of its places that nobody has had; 0 is nobody's
        self._free: list[int] = []

    @property
    def nbytes(self) -> int:
        """Of the arrays and, roughly, of the labels."""
        held = sum(map(len, self.labels.values())) * _BYTES_A_LABEL + sys.getsizeof(self.labels)
        return self.known.nbytes + self.frauds.nbytes + held

    def number(self) -> int:
        """A number for an entity that gets its first label."""
        number = self._free.pop() if self._free else len(self.labels) + 1
        if number == len(self.known):
            self.known = np.concatenate((self.known, np.zeros_like(self.known)))
        self.labels[number] = {}
        self.known[number] = 0
        self.known[number, OLDEST] = NEVER
        return number

    def add(self, number: int, label: Label) -> None:
        """Takes in what became known of a transaction; labels may come before it, repeat, and contradict each other."""
        _, said = self.labels[number].setdefault(label.transaction_id, (label.timestamp, []))
        if (label.labelled_at, label.is_fraud) not in said:
            said.append((label.labelled_at, label.is_fraud))
            said.sort()
            self.known[number, BEGIN] = NEVER
            self.known[number, OLDEST] = min(label.timestamp, int(self.known[number, OLDEST]))

    def forget(self, number: int, until: int) -> bool:
        """Drops the labels of transactions at ``until`` and before; True if none is left, and the number is free."""
        labels = {key: label for key, label in self.labels[number].items() if label[0] > until}
        if not labels:
            del self.labels[number]
            self._free.append(number)
            return True
        self.labels[number] = labels
        self.known[number, BEGIN] = NEVER
        self.known[number, OLDEST] = min(timestamp for timestamp, _ in labels.values())
        return False

    def work_out(self, number: int, events: Integers, t: int) -> None:
        """What is known at t; ``events`` int64 [., 2]: all of the entity's, by time."""
        begin, end, newest = 0, NEVER, 0
        called: list[int] = []
        for timestamp, said in self.labels[number].values():
            newest = max(newest, timestamp)
            place = bisect_right(said, (t, True))
            if place < len(said):
                end = min(end, said[place][0])
            if place:
                labelled_at, is_fraud = said[place - 1]
                begin = max(begin, labelled_at)
                if is_fraud:
                    called.append(timestamp)
        named = np.array(sorted(called), np.int64)
        low, high = (np.searchsorted(events[:, INSTANT], named, side) for side in ("left", "right"))
        # A label may overtake its transaction, and says nothing until that is there.
        there = low < high
        named, low, high = named[there], low[there], high[there]
        largest = [events[a:b, AMOUNT].max() for a, b in zip(low, high, strict=True)]
        start = self._place(number, len(named))
        places = self.frauds[start : start + len(named) + 1]
        places[:-1, INSTANT] = named
        places[0, AMOUNT] = 0
        np.cumsum(largest, out=places[1:, AMOUNT])
        self.known[number, [BEGIN, END, NEWEST, FRAUDS, COUNT]] = begin, end, newest, start, len(named)

    def _place(self, number: int, frauds: int) -> int:
        """Where so many frauds and their totals, one more, find room: where they were, or at the end."""
        start, count = int(self.known[number, FRAUDS]), int(self.known[number, COUNT])
        if start and frauds <= count:
            return start
        if self._top + frauds + 1 > len(self.frauds):
            self._compact(number, frauds + 1)
        self._top += frauds + 1
        return self._top - frauds - 1

    def _compact(self, but: int, more: int) -> None:
        """Leaves out the places that nobody has any more, and makes room."""
        kept = [n for n in self.labels if n != but and self.known[n, FRAUDS]]
        sizes = [int(self.known[n, COUNT]) + 1 for n in kept]
        frauds = np.zeros((2 * (sum(sizes) + more) + 16, 2), np.int64)
        self._top = 1
        for n, size in zip(kept, sizes, strict=True):
            start = int(self.known[n, FRAUDS])
            frauds[self._top : self._top + size] = self.frauds[start : start + size]
            self.known[n, FRAUDS] = self._top
            self._top += size
        self.frauds = frauds
