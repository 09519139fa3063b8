"""The pulse of the flow: once an epoch a beat goes from the reader to every process, which so knows that all work.

The engine lets the reader go on only when the epoch before is closed in all processes: everything that was read in it
is computed, committed and, with recovery, durable. So a beat says that one has closed. A process that hangs, or has
vanished without a word, holds up the epoch, and with it the beats of all. Without recovery there are epochs, too, of
ten seconds where ``-s`` does not say.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final, Never

from bytewax.operators import StatefulBatchLogic

from flows import stop
from flows.records import Beat

WAITS: Final = 5  # times that a start may wait for Kafka or the others, each for as long as VIGIE_KAFKA_TIMEOUT


class Vitals:
    """Whether this process is alive, and ready; safe for several threads.

    ``stall``: seconds without a closed epoch after which it counts as dead. ``patience``: seconds that it may wait for
    Kafka or for the others at the start, which it ends by itself.
    """

    def __init__(self, stall: float, patience: float) -> None:
        self._stall = stall
        self._start = stall + WAITS * patience
        self._began = time.monotonic()
        self._last: float | None = None
        self._replayed = False

    def feel(self, beat: Beat) -> None:
        """An epoch has closed."""
        self._replayed = beat.replayed
        self._last = time.monotonic()

    def epoch_age(self) -> float | None:
        """Seconds since an epoch closed, as far as this process has heard; None before the engine is at work."""
        return None if self._last is None else time.monotonic() - self._last

    def stalled(self) -> str | None:
        """Why this process should be started again; None where it is alive."""
        age = self.epoch_age()
        if age is None:
            waited = time.monotonic() - self._began
            return f"the engine is not at work after {waited:.0f} s" if waited > self._start else None
        return f"no epoch has closed for {age:.0f} s (VIGIE_STALL_TIMEOUT)" if age > self._stall else None

    def unready(self) -> str | None:
        """Why this process does not score, or not yet; None where it does."""
        if stop.requested.is_set():
            return "the flow is stopping"
        if reason := self.stalled():
            return reason
        if self._last is None:
            return "the engine is not at work yet"
        return None if self._replayed else "the journal is being replayed"


class Pulse(StatefulBatchLogic[Beat, Never, None]):
    """Takes the beats of one process; keeps nothing."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def on_batch(self, values: list[Beat]) -> tuple[Iterable[Never], bool]:
        """Nothing comes of it."""
        self._vitals.feel(values[-1])
        return (), StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        """Nothing, as the class says."""
