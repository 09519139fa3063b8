"""Stopping cleanly: SIGTERM or Ctrl-C lets the source end, so that the last epoch closes and its state is durable.

Bytewax runs Python's signal handlers only while it works: not while it waits for its peers at the start. And a stop
that only one process hears is none where the source is another one's. So a thread listens too, and ends a process that
does not end by itself; to its peers that is a crash like any other.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Final

CONNECTING: Final = 120.0  # seconds to wait for peers at the start: one that died while it connected never comes back
GRACE: Final = 20.0  # seconds for a clean stop; Kubernetes kills after 30

requested = threading.Event()
connected = threading.Event()  # with all peers: the engine is at work
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
    heard, bell = socket.socketpair()
    bell.setblocking(False)
    signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(heard, bell), name="stop", daemon=True).start()


def _listen(heard: socket.socket, _bell: socket.socket) -> None:
    heard.settimeout(CONNECTING)
    try:
        number = heard.recv(1)[0]
    except TimeoutError:
        if not connected.is_set():
            _log.error("the other processes are not there after %g seconds; start all of them again", CONNECTING)
            os._exit(1)
        heard.settimeout(None)
        number = heard.recv(1)[0]
    if connected.is_set():
        time.sleep(GRACE)
        _log.error("no clean stop within %g seconds: send the signal to all processes", GRACE)
    os._exit(128 + number)
