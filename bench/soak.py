"""The flow's memory under steady traffic, and whether it grows.

Event time runs a day in a second, so that after a minute and a half as much leaves the longest windows as enters them:
with real time memory would grow for 90 days, and rightly so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from rich.console import Console

from bench.contenders import Contender, Course
from bench.latency import Live
from bench.speed_results import Soak
from features.transaction import microseconds

ACCOUNTS: Final = 1_000
RATE: Final = 2_000.0  # transactions a second, two of each account: a day's
EVERY: Final = 10.0  # seconds between two looks
SETTLED: Final = 120.0  # seconds that are left out of the slope: windows still fill and allocators still take


def soak(course: Course, contender: Contender, seconds: float, console: Console) -> Soak:
    """The contender's memory each ten seconds."""
    began_at = datetime.now(UTC) - timedelta(days=seconds + SETTLED)
    with Live(course, contender, ACCOUNTS, microseconds(began_at)) as live, live.steady(RATE, seconds) as sending:
        began = time.monotonic()
        at: list[float] = []
        held: list[int] = []
        while sending.poll() is None:
            time.sleep(min(EVERY, max(0.1, seconds / 30)))
            live.run.program.check()
            at.append(time.monotonic() - began)
            held.append(live.run.program.usage().memory)
            console.print(f"{at[-1]:,.0f} s: {held[-1] / 1e6:,.1f} MB")
    slope, error = trend(at, held)
    return Soak(rate=RATE, seconds=at, memory=held, slope=slope, error=error)


def trend(seconds: Sequence[float], memory: Sequence[int]) -> tuple[float, float]:
    """Bytes an hour, of what comes after ``SETTLED``, by least squares, and half of the 95 % interval.

    Neighbouring values depend on each other, so the interval is widened for as many independent ones as their first
    autocorrelation leaves (von Storch and Zwiers, "Statistical Analysis in Climate Research", 1999, chapter 6).
    """
    begin = next((nth for nth, at in enumerate(seconds) if at >= SETTLED), len(seconds))
    x, y = np.array(seconds[begin:]) / 3600, np.array(memory[begin:], np.float64)
    if len(x) < 4:
        return math.nan, math.nan
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - slope * x - intercept
    total = float(rest @ rest)
    alike = max(0.0, float(rest[:-1] @ rest[1:]) / total) if total else 0.0
    independent = max(3.0, len(x) * (1 - alike) / (1 + alike))
    deviation = math.sqrt(total / (independent - 2) / float(((x - x.mean()) ** 2).sum())) if total else 0.0
    return float(slope), 1.96 * deviation
