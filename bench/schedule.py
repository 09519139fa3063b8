"""Sends transactions at intended instants that no delay moves, so that a stall counts for all that had to wait for it.

    python -m bench.schedule BOOTSTRAP TOPIC ACCOUNTS BEGIN N RATE [FIRST]

As a process of its own it encodes the transactions from BEGIN on, prints the instant of the first one
(``time.monotonic``), sends N of them, RATE a second, and prints by how many milliseconds it was late itself, the 99th
percentile. What is overdue is sent at once, and keeps its instant: without that, a benchmark leaves out the waits of
those that it did not send in time (coordinated omission; Gil Tene, "How not to measure latency", 2013). Transactions
happen as they are sent, or where FIRST says when the traffic's first one happened, at their usual place in event time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Producer

from bench.traffic import Traffic

AHEAD: Final = 0.5  # seconds from the line that says when it begins to the beginning
TICK: Final = 0.003  # seconds of sleep at least: waking for each event would take a core from who is measured
LINGER: Final = 10  # milliseconds to gather a batch: small ones would keep the broker busy, and with it the machine
POLL: Final = 256  # records after which the client may report


@dataclass(frozen=True)
class Schedule:
    """``count`` events, ``rate`` a second, from the instant ``begin`` on."""

    begin: float
    rate: float
    count: int

    def due(self, nth: int) -> float:
        """The intended instant of an event, whatever happened before it."""
        return self.begin + nth / self.rate

    def owed(self, now: float) -> int:
        """How many events are due by now."""
        # A millionth of an event early, so that what is due just now is not taken for due in a moment.
        return 0 if now < self.begin else min(self.count, int((now - self.begin) * self.rate + 1e-6) + 1)

    def run(
        self,
        send: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Sends each event as soon as it is due; after a delay, all that are overdue at once."""
        sent = 0
        while sent < self.count:
            now = clock()
            owed = self.owed(now)
            if owed == sent:
                sleep(max(TICK, self.due(sent) - now))
            for nth in range(sent, owed):
                send(nth)
            sent = owed


def main() -> int:
    """The process; see above."""
    bootstrap, topic, accounts, begin, n, rate, *usual = sys.argv[1:]
    first, count, step = int(begin), int(n), 1e6 / float(rate)
    # They happen as they are sent, but for the moment that encoding them takes.
    now = time.time_ns() // 1000
    traffic = Traffic(int(accounts), *map(int, usual))
    happens = None if usual else (lambda nth: now + int((nth - first) * step))
    records = list(traffic.records(first + count, first, happens))
    limits = {"linger.ms": LINGER, "queue.buffering.max.messages": 1_000_000}
    producer = Producer({"bootstrap.servers": bootstrap, **limits})
    producer.list_topics(topic, 10)

    late: list[float] = []

    def send(nth: int) -> None:
        late.append(time.monotonic() - schedule.due(nth))
        key, value, partition = records[nth]
        producer.produce(topic, value, key, partition)
        if nth % POLL == 0:
            producer.poll(0)

    schedule = Schedule(time.monotonic() + AHEAD, float(rate), count)
    print(schedule.begin, flush=True)
    schedule.run(send)
    producer.flush()
    print(statistics.quantiles(late, n=100)[-1] * 1000, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
