"""The events of an entity that are known as frauds, from the labels that came for it."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Final

# transaction_id -> its timestamp, and what was said of it when: (labelled_at, is_fraud), sorted
Labels = dict[str, tuple[int, list[tuple[int, bool]]]]

_NEVER: Final = 1 << 63  # microseconds; no instant comes to it


class KnownFrauds:
    """What is known at t. It holds from ``begin`` to before ``end``, between which no label was given.

    ``instants``: the frauds' own, sorted, one for each transaction that was called a fraud. ``newest``: the last
    instant that a label names; an event after it changes nothing here.
    """

    __slots__ = ("_totals", "begin", "end", "instants", "newest")

    def __init__(self, labels: Labels, events: array[int], amounts: array[int], t: int) -> None:
        """``events`` and ``amounts``: all of the entity's, by time."""
        self.begin, self.end, self.newest = 0, _NEVER, 0
        frauds: list[tuple[int, int]] = []
        for timestamp, said in labels.values():
            self.newest = max(self.newest, timestamp)
            known = bisect_right(said, (t, True))
            if known < len(said):
                self.end = min(self.end, said[known][0])
            if not known:
                continue
            labelled_at, is_fraud = said[known - 1]
            self.begin = max(self.begin, labelled_at)
            at = bisect_left(events, timestamp)
            # A label may overtake its transaction, and says nothing until that is there.
            if is_fraud and at < len(events) and events[at] == timestamp:
                frauds.append((timestamp, max(amounts[at : bisect_right(events, timestamp)])))
        frauds.sort()
        self.instants = [timestamp for timestamp, _ in frauds]
        self._totals = list(accumulate((amount for _, amount in frauds), initial=0))

    def within(self, t: int, bounds: tuple[int, int]) -> tuple[int, int]:
        """The place of the first of the frauds in the window of an event at t, and of the first after it."""
        first, second = bounds
        return bisect_right(self.instants, t - second), bisect_right(self.instants, t - first)

    def total(self, low: int, high: int) -> int:
        """The sum of these frauds' amounts; of several events at a fraud's instant the largest amount stands for it."""
        return self._totals[high] - self._totals[low]

    def newest_honest(self, events: array[int], since: int, until: int) -> int:
        """The place of the newest event from ``since`` to before ``until`` that is not one of the frauds.

        It is ``since - 1`` where there is none. Each fraud takes one event of its instant.
        """
        instants, at = self.instants, until - 1
        fraud = bisect_right(instants, events[at]) - 1
        while at >= since:
            while fraud >= 0 and instants[fraud] > events[at]:
                fraud -= 1  # an instant may have more labels than events
            if fraud < 0 or instants[fraud] < events[at]:
                break
            at, fraud = at - 1, fraud - 1
        return at
