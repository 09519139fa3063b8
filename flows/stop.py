"""Stopping cleanly: SIGTERM or Ctrl-C lets the source end, so that the last epoch closes and its state is durable.

Where that does not come about in time (the signal reached only some of the processes, or Kafka is away), the process
ends all the same: as after a crash, the next start goes on from the last durable epoch, and the peers end at once.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from datetime import timedelta
from typing import Final

LATE: Final = 1  # exit status where the deadline has passed

requested = threading.Event()
_log = logging.getLogger(__name__)


def on_signals(deadline: timedelta) -> None:
    """Makes SIGTERM and SIGINT set ``requested``; after ``deadline``, or a second SIGINT, the process ends at once.

    Call from the main thread. A thread of its own takes the signals, since the main one may be waiting for Kafka.
    """
    requested.clear()
    arriving, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # in place of the default, which would end the process or interrupt it
    threading.Thread(target=_watch, args=(arriving, deadline.total_seconds()), name="stop", daemon=True).start()


def _watch(arriving: int, seconds: float) -> None:
    while (number := os.read(arriving, 1)[0]) not in (signal.SIGTERM, signal.SIGINT):
        pass
    _log.info("%s: no more is read; the last epoch closes", signal.Signals(number).name)
    requested.set()
    give_up = time.monotonic() + seconds
    while select.select([arriving], [], [], max(0.0, give_up - time.monotonic()))[0]:
        if os.read(arriving, 1)[0] == signal.SIGINT:
            _end(128 + signal.SIGINT, "Ctrl-C once more: ended at once")
    _end(LATE, f"the flow has not ended within {seconds:g} s (VIGIE_STOP_TIMEOUT), so this process ends as it is")


def _end(status: int, why: str) -> None:
    _log.warning("%s; the next start goes on from the last durable epoch", why)
    logging.shutdown()
    os._exit(status)
