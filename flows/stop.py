"""Stopping cleanly: SIGTERM or Ctrl-C lets the source end, so that the last epoch closes and its state is durable.

Where that does not come about in time (the signal reached only some of the processes, or Kafka is away), the process
ends all the same: as after a crash, the next start goes on from the last durable epoch, and the peers end at once. So
does a process whose peers die while the engine connects them: it would wait for ever. Before the engine is at work
there is nothing to close, and a signal ends the process at once.
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

FAILED: Final = 1  # exit status where a deadline has passed

requested = threading.Event()
connected = threading.Event()  # the engine is at work, with all peers
_log = logging.getLogger(__name__)


def on_signals(stopping: timedelta) -> None:
    """Makes SIGTERM and SIGINT set ``requested``; a second SIGINT ends the process at once.

    It also ends at once where the engine is not ``connected`` yet, and where a stop takes longer than the span. Call
    from the main thread. A thread of its own takes the signals, since the engine runs no Python in the main one while
    it waits for its peers, and the main one may be waiting for Kafka, or for the other processes.
    """
    requested.clear()
    arriving, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # in place of the default, which would end the process or interrupt it
    threading.Thread(target=_watch, args=(arriving, stopping.total_seconds()), name="stop", daemon=True).start()


def unless_connected(within: timedelta) -> None:
    """Ends the process where the engine is not ``connected`` within that span from now on."""
    threading.Thread(target=_expect, args=(within.total_seconds(),), name="connecting", daemon=True).start()


def _expect(seconds: float) -> None:
    if not connected.wait(seconds):
        _end(FAILED, f"the engine has not reached all processes within {seconds:g} s (VIGIE_KAFKA_TIMEOUT)")


def _watch(arriving: int, stopping: float) -> None:
    number = os.read(arriving, 1)[0]
    if not connected.is_set():
        _end(128 + number, f"{signal.Signals(number).name} before the engine was at work")
    _log.info("%s: no more is read; the last epoch closes", signal.Signals(number).name)
    requested.set()
    give_up = time.monotonic() + stopping
    while (again := _arrived(arriving, max(0.0, give_up - time.monotonic()))) is not None:
        if again == signal.SIGINT:
            _end(128 + again, "Ctrl-C once more: ended at once")
    _end(FAILED, f"the flow has not ended within {stopping:g} s (VIGIE_STOP_TIMEOUT); send the signal to all processes")


def _arrived(arriving: int, seconds: float) -> int | None:
    """The next signal; None where none comes in time."""
    return os.read(arriving, 1)[0] if select.select([arriving], [], [], seconds)[0] else None


def _end(status: int, why: str) -> None:
    _log.warning("%s; the next start goes on from the last durable epoch", why)
    logging.shutdown()
    os._exit(status)
