"""From the instant at which a transaction was to be sent to the instant at which its score could be read.

The injector and the reader are processes of their own. Percentiles are those of all values, exact: no histogram.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.arrivals import loaded
from bench.contenders import Contender, Course, Run
from bench.processes import busy
from bench.schedule import Schedule
from bench.speed_results import Latency
from bench.throughput import wait
from bench.traffic import Traffic, send
from features.errors import ContenderFailure

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 99.99)
BEHIND: Final = 10  # values that have to lie beyond a percentile for it to be given
PAUSE: Final = 3.0  # seconds of the schedule that are not counted
QUIET: Final = 20.0  # seconds without a score after which no more is waited for
CURVE: Final = 60  # points of a distribution's curve
EXTRA: Final = 0.2  # of the accounts have had a second transaction before live traffic begins

Floats = NDArray[np.float64]
Child = AbstractContextManager[subprocess.Popen[str]]


def percentiles(latencies: Floats) -> list[float | None]:
    """Of the values, those at ``PERCENTILES``; None where fewer than ``BEHIND`` values lie beyond."""
    found = (
        np.percentile(latencies, PERCENTILES, method="higher").tolist() if len(latencies) else [0.0] * len(PERCENTILES)
    )
    return [value if enough(len(latencies), p) else None for p, value in zip(PERCENTILES, found, strict=True)]


def enough(samples: int, percentile: float) -> bool:
    """Whether so many values lie beyond a percentile that it says something."""
    return samples * (100 - percentile) / 100 >= BEHIND - 1e-6


def curve(latencies: Floats) -> list[tuple[float, float]]:
    """Points of the distribution: one in so many is slower (1 to the number of values), and how slow, milliseconds."""
    if not len(latencies):
        return []
    inverse = np.geomspace(1.0, len(latencies), CURVE)
    values = np.quantile(latencies, 1 - 1 / inverse, method="higher")
    return list(zip(inverse.tolist(), values.tolist(), strict=True))


def latencies(schedule: Schedule, first: int, came: dict[int, float], pause: float) -> Floats:
    """Milliseconds from the intended instant of each event to its arrival; ``first``: the number of event 0.

    Raises ``ContenderFailure`` where some have not come: their latency would be the longest.
    """
    counted = range(round(pause * schedule.rate), schedule.count)
    if missing := [nth for nth in counted if first + nth not in came]:
        raise ContenderFailure(f"{len(missing):,} of {len(counted):,} scores never came, first t{first + missing[0]}")
    return np.array([(came[first + nth] - schedule.due(nth)) * 1000 for nth in counted])


class Live:
    """A contender whose states hold so many accounts, under live traffic; ``begin``: when the past of these begins."""

    def __init__(self, course: Course, contender: Contender, accounts: int, begin: int | None = None) -> None:
        self._course = course
        self._filling = int(accounts * (1 + EXTRA))
        # The past ends now, and from now on transactions happen as they are sent.
        past = Traffic(accounts).step * self._filling
        self._traffic = Traffic(accounts, time.time_ns() // 1000 - past if begin is None else begin)
        self._contender = contender
        self._topic = f"live-{contender.name}-{accounts}"
        self._sent = 0
        self._run: Run | None = None

    def __enter__(self) -> Live:
        self._course.create(self._topic)
        self._run = self._course.start(self._contender, self._topic, live=True)
        try:
            self._sent = self._filling
            send(self._course.bootstrap, self._topic, self._traffic, self._sent)
            wait(self._run, self._sent)
            self._run.arrivals.close()  # a reader of its own takes over
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.__exit__()

    @property
    def run(self) -> Run:
        """The contender at work."""
        assert self._run is not None
        return self._run

    def measure(self, rate: float, seconds: float, share: float) -> Latency:
        """Its latencies at a rate; ``share``: which share of its saturation that is. Raises ``ContenderFailure``."""
        count = int((PAUSE + seconds) * rate)
        first, self._sent = self._sent, self._sent + count
        own, began, all_of_it = self.run.program.usage(), time.monotonic(), busy()
        with tempfile.TemporaryDirectory(prefix="arrivals-") as folder:
            file = Path(folder) / "arrivals.npy"
            topics = [self.run.place.scored] + [self.run.place.alerts] * self._contender.alerts
            words = [self._course.bootstrap, str(count), str(file), str(QUIET), *topics]
            with child("bench.arrivals", words) as reader:
                _line(reader, "bench.arrivals")
                schedule, late_itself = self._send(first, count, rate)
                if reader.wait(QUIET + seconds + 60):
                    raise ContenderFailure(f"the reader of {self._contender.name}'s scores ended with an error")
            self.run.program.check()
            came = loaded(file)
        used, cores = self.run.program.usage(), (busy() - all_of_it) / (time.monotonic() - began)
        late = latencies(schedule, first, came.scores, PAUSE)
        alerted = [nth - first for nth in came.alerts if nth - first >= round(PAUSE * rate)]
        alerts = np.array([(came.alerts[first + nth] - schedule.due(nth)) * 1000 for nth in alerted])
        return Latency(
            contender=self._contender.name,
            accounts=self._traffic.accounts,
            share=share,
            rate=rate,
            samples=len(late),
            percentiles=percentiles(late),
            alerts=len(alerts),
            alert_percentiles=percentiles(alerts),
            most=float(late.max()),
            curve=curve(late),
            cpu=(used.cpu - own.cpu) / count * 1e6,
            memory=used.memory,
            late=late_itself,
            busy=cores,
            load=os.getloadavg()[0],
        )

    def steady(self, rate: float, seconds: float) -> Child:
        """Traffic that nobody times, at its usual place in event time; the process that sends it, and then ends."""
        return self._injector(self._sent, int(rate * seconds), rate, str(self._traffic.begin))

    def _injector(self, first: int, count: int, rate: float, *more: str) -> Child:
        words = [self._course.bootstrap, self._topic, str(self._traffic.accounts), str(first), str(count), str(rate)]
        return child("bench.schedule", [*words, *more])

    def _send(self, first: int, count: int, rate: float) -> tuple[Schedule, float]:
        with self._injector(first, count, rate) as injector:
            begin = float(_line(injector, "bench.schedule"))
            late = float(_line(injector, "bench.schedule"))
            if injector.wait():
                raise ContenderFailure("the injector ended with an error")
        return Schedule(begin, rate, count), late


@contextmanager
def child(module: str, words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A module as a process that does not outlive its use."""
    with subprocess.Popen([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str], name: str) -> str:
    """The first line that it prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ContenderFailure(f"{name} ended before it began, with exit code {process.wait()}")
    return line.strip()
