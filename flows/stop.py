"""Stopping cleanly: SIGTERM lets every source end, so that the last epoch closes and its state is durable."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

requested = threading.Event()
_log = logging.getLogger(__name__)


def on_sigterm() -> None:
    """Makes SIGTERM set ``requested``; call from the main thread."""
    requested.clear()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        _log.info("SIGTERM: no more is read; the last epoch closes")
        requested.set()

    signal.signal(signal.SIGTERM, stop)
