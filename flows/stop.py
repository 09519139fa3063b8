"""Stopping cleanly: SIGTERM or Ctrl-C lets the source end, so that the last epoch closes and its state is durable."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

requested = threading.Event()
_log = logging.getLogger(__name__)


def on_signals() -> None:
    """Makes SIGTERM and SIGINT set ``requested``; a second SIGINT interrupts. Call from the main thread."""
    requested.clear()

    def stop(number: int, _frame: FrameType | None) -> None:
        _log.info("%s: no more is read; the last epoch closes", signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        requested.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
