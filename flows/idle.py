"""Keys that nothing has touched for so long that no window can reach their events: found, and called up to be dropped.

Bytewax can wake a key at a time, but looks at all such keys at every step; here only the longest idle one is looked at.
And a source of its own would hold up the reader, since sources wait for each other at every epoch; so the reader's
ticks are spread over the workers, and each one calls up the idle keys of its process.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from flows.records import Tick

AT_MOST: Final = 1000


class IdleKeys:
    """The keys of one step in this process, the longest untouched first, each with its newest event time."""

    def __init__(self, reach: int) -> None:
        self._reach = reach  # microseconds
        self._watermark = 0
        self._newest: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newest)

    def touch(self, key: str, newest: int) -> None:
        """The key has been used; its newest event has this time."""
        self._newest[key] = newest
        self._newest.move_to_end(key)

    def advance(self, watermark: int) -> None:
        """No event before ``watermark`` will come."""
        self._watermark = max(self._watermark, watermark)

    def is_past(self, newest: int) -> bool:
        """Whether a state with this newest event can no longer be of use to any event that may still come."""
        return newest < self._watermark - self._reach

    def forget(self, key: str) -> None:
        """The key's state is gone."""
        self._newest.pop(key, None)

    def due(self, tick: Tick) -> list[tuple[str, None]]:
        """``(key, None)`` for keys whose states may go, each once; not too many at a time, so as to hold up nothing."""
        self.advance(tick.watermark)
        called: list[tuple[str, None]] = []
        while self._newest and len(called) < AT_MOST:
            key, newest = next(iter(self._newest.items()))
            if not self.is_past(newest):
                break
            del self._newest[key]
            called.append((key, None))
        return called
