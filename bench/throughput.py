"""Scores a second and CPU a score from a backlog, contender by contender in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Final

from bench.arrivals import STALLED, scores
from bench.contenders import Contender, Course, Run
from bench.processes import busy, usage
from bench.speed_results import Speed

WARM: Final = 0.2  # of the transactions fill states and caches, uncounted
LOOK: Final = 0.05  # seconds between two looks at how far it has come
START: Final = 90.0  # seconds that a contender may take to its first score


def wait(run: Run, n: int) -> None:
    """Returns when n scores have come; raises ``ContenderFailure`` where it dies or stands still."""
    seen, since, patience = 0, time.monotonic(), START
    while (there := len(run.arrivals)) < n:
        run.program.check()
        run.arrivals.check()
        now = time.monotonic()
        if there > seen:
            seen, since, patience = there, now, STALLED
        elif now - since > patience:
            raise run.failed(f"gave no score for {patience:.0f} seconds, after {there:,} of {n:,}")
        time.sleep(LOOK)


def check(course: Course, contender: Contender, topic: str, truth: list[float]) -> tuple[float, str | None]:
    """Lets the contender score the topic, whose transactions have these scores.

    Scores a second, as a first idea, and what differs. Raises ``ContenderFailure`` where it cannot run.
    """
    n = len(truth)
    with course.start(contender, topic, keep=True) as run:
        wait(run, n)
        stamps = run.arrivals.stamps
        found = scores(run.arrivals.kept)
    ordered = sorted(stamps)
    # Some come in lumps: what is slower, all or the later half, is nearer to the truth.
    rate = min(len(part) / max(0.05, (part[-1] - part[0]) / 1000) for part in (ordered, ordered[n // 2 :]))
    return rate, differing(contender, found, truth)


def differing(contender: Contender, found: Mapping[int, float], truth: Sequence[float]) -> str | None:
    """How a contender's scores, by number, differ from what they should be; None where they do not."""
    far = contender.tolerance
    wrong = [n for n, score in enumerate(truth) if not (n in found and abs(found[n] - score) <= far)]
    if not wrong:
        return None
    first = wrong[0]
    return (
        f"{contender.name} gives {len(wrong):,} of {len(truth):,} transactions other scores than the batch's features "
        f"and the graph do, by more than {far:g}; the first is t{first}: {found.get(first)} instead of {truth[first]}"
    )


def measure(course: Course, contender: Contender, topic: str, n: int, broker: int) -> Speed:
    """The contender on the first n or more transactions of a backlog; ``broker``: its process."""
    with course.start(contender, topic) as run:
        warm = int(n * WARM)
        wait(run, warm)
        began, before = time.monotonic(), len(run.arrivals)
        own, of_broker, me, all_of_it = run.program.usage(), usage(broker), _own(), busy()
        while len(run.arrivals) < n:
            run.program.usage()
            wait(run, min(n, len(run.arrivals) + max(1, (n - warm) // 20)))
        took, counted = time.monotonic() - began, len(run.arrivals) - before
        cpu = run.program.usage().cpu - own.cpu
        broker_cpu = usage(broker).cpu - of_broker.cpu
        others = busy() - all_of_it - cpu - broker_cpu - (_own() - me)
        stamps = sorted(run.arrivals.stamps[before:])
        seconds = max(1, stamps[-1] - stamps[0]) / 1000
        return Speed(
            scored=counted,
            throughput=counted / seconds,
            cpu=cpu / counted * 1e6,
            broker_cpu=broker_cpu / counted * 1e6,
            memory=run.program.peak,
            others=max(0.0, others / took),
            load=os.getloadavg()[0],
        )


def beside(course: Course, contender: Contender, topic: str, n: int) -> float:
    """CPU microseconds a score on a backlog of n, while the same contender does all of that once more beside it.

    They share nothing but the machine, so that is what two processes of one flow would cost, were these perfect. One
    alone costs less, where two cores are threads of one.
    """
    with course.start(contender, topic) as one, course.start(contender, topic) as other:
        both = (one, other)
        for run in both:
            wait(run, int(n * WARM))
        before, own = sum(len(run.arrivals) for run in both), sum(run.program.usage().cpu for run in both)
        while not any(len(run.arrivals) >= n for run in both):
            for run in both:
                wait(run, min(n, len(run.arrivals) + 1))
        counted = sum(len(run.arrivals) for run in both) - before
        return (sum(run.program.usage().cpu for run in both) - own) / counted * 1e6


def _own() -> float:
    """CPU seconds of this process."""
    times = os.times()
    return times.user + times.system
