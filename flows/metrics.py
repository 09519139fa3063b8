"""Counters of what the flow does, on Bytewax's /metrics page and, every half minute, in the log."""

from __future__ import annotations

import logging
import time
from typing import Final

from prometheus_client import Counter

READ: Final = Counter("vigie_read_total", "Messages read, by topic", ["topic"])
SCORED: Final = Counter("vigie_scored_total", "Transactions scored")
ALERTS: Final = Counter("vigie_alerts_total", "Alerts raised")
REJECTED: Final = Counter("vigie_rejected_total", "Messages rejected, by error code", ["code"])
DUPLICATES: Final = Counter("vigie_duplicates_total", "Transactions dropped because their id was seen before")
IDLE: Final = Counter("vigie_idle_states_dropped_total", "States dropped because no window can reach them", ["entity"])

LOG_EVERY: Final = 30.0  # seconds

_log = logging.getLogger(__name__)


class Progress:
    """Logs the counters now and then; ask it often, it looks at the clock."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LOG_EVERY
        self._last: dict[str, int] = {}

    def tick(self, *, final: bool = False) -> None:
        """Writes one line where half a minute has passed and something has changed, or where it is the last one."""
        now = time.monotonic()
        if now < self._next and not final:
            return
        self._next = now + LOG_EVERY
        totals = {
            "read": _total(READ),
            "scored": _total(SCORED),
            "alerts": _total(ALERTS),
            "rejected": _total(REJECTED),
            "duplicates": _total(DUPLICATES),
        }
        if totals != self._last:
            self._last = totals
            _log.info("so far", extra=totals)


def _total(counter: Counter) -> int:
    return int(sum(s.value for family in counter.collect() for s in family.samples if s.name.endswith("_total")))
