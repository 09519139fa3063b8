"""Signals as a process of its own meets them: it ends by itself, at the deadline, or at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import stop

# What stands for an engine: it looks whether it should stop, or is deaf, as one that waits for Kafka or its peers is.
PROGRAM = """
import logging, sys, time
from datetime import timedelta
from flows import stop
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
if sys.argv[1] != "alone":  # whose peers do not come
    stop.connected.set()
stop.on_signals(timedelta(seconds=float(sys.argv[2])))
stop.unless_connected(timedelta(seconds=float(sys.argv[3])))
print("ready", flush=True)
if sys.argv[1] == "deaf":
    time.sleep(60)
if sys.argv[1] in ("deep", "alone"):  # in C code, where Python runs no handler
    import hashlib; hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
stop.requested.wait(60)
print("stopped", flush=True)
"""


@pytest.fixture
def run() -> Callable[..., subprocess.Popen[str]]:
    def start(kind: str, stopping: float, connecting: float = 0.2) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-c", PROGRAM, kind, str(stopping), str(connecting)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(stop.__file__).parents[1])
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    return start


Run = Callable[..., subprocess.Popen[str]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_clean_end(run: Run, number: signal.Signals) -> None:
    with run("good", 30) as process:
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stdout is not None
        assert process.stdout.read() == f"{number.name}: no more is read; the last epoch closes\nstopped\n"


@pytest.mark.parametrize("kind", ["deaf", "deep"])
def test_at_the_deadline_it_ends_all_the_same_and_says_so(run: Run, kind: str) -> None:
    with run(kind, 0.5) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)  # which does not put it off
        assert process.wait(10) == 1
        assert 0.4 < time.monotonic() - began < 5
        assert process.stdout is not None
        assert "has not ended within 0.5 s (VIGIE_STOP_TIMEOUT)" in process.stdout.read()


def test_a_second_interrupt_ends_it_at_once(run: Run) -> None:
    with run("deep", 60) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_who_waits_for_peers_ends_at_a_signal(run: Run) -> None:
    with run("alone", 60, 60) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_who_waits_for_peers_in_vain_gives_up(run: Run) -> None:
    with run("alone", 60, 0.5) as process:
        assert process.wait(10) == 1
        assert process.stdout is not None
        assert "has not reached all processes within 0.5 s (VIGIE_KAFKA_TIMEOUT)" in process.stdout.read()
