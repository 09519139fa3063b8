"""Keys that nothing has touched for so long that no window can reach their events: found, and called up to be dropped.

Bytewax can wake a key at a time, but looks at all such keys at every step; here only the longest idle one is looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from bytewax.inputs import DynamicSource, StatelessSourcePartition

from flows import stop

SWEEP_EVERY: Final = timedelta(seconds=1)
SWEEP_AT_MOST: Final = 1000


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

    def due(self, at_most: int) -> list[str]:
        """Keys whose states may go; each is named once."""
        keys: list[str] = []
        while self._newest and len(keys) < at_most:
            key, newest = next(iter(self._newest.items()))
            if not self.is_past(newest):
                break
            del self._newest[key]
            keys.append(key)
        return keys


class IdleSource(DynamicSource[tuple[str, None]]):
    """Now and then ``(key, None)`` for each key of this process whose state may go."""

    def __init__(self, idle: IdleKeys) -> None:
        self.idle = idle

    def build(self, step_id: str, worker_index: int, worker_count: int) -> IdlePartition:  # noqa: ARG002
        """One for each worker; a worker thread may call up the keys of another, which does no harm."""
        return IdlePartition(self.idle)


class IdlePartition(StatelessSourcePartition[tuple[str, None]]):
    """Looks once a second."""

    def __init__(self, idle: IdleKeys) -> None:
        self._idle = idle
        self._awake = datetime.now(UTC)

    def next_batch(self) -> Iterable[tuple[str, None]]:
        """At most a thousand keys, so that a crowd of them does not hold up the transactions."""
        if stop.requested.is_set():
            raise StopIteration
        self._awake = datetime.now(UTC) + SWEEP_EVERY
        return [(key, None) for key in self._idle.due(SWEEP_AT_MOST)]

    def next_awake(self) -> datetime:
        """In a second."""
        return self._awake
