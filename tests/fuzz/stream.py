"""Fuzzed records through the real flow, Kafka to Kafka, with every one of them accounted for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from features.transaction import MICROSECOND
from tests.flows import settled
from tests.flows.running import IN_ORDER, PARTITIONS, QUIET, Flow, text
from tests.fuzz.ledger import Judged, Ledger, judged
from tests.fuzz.records import fuzzed

LATENESS: Final = timedelta(days=1)  # the flow's defaults, of which the memory for ids is the difference
HORIZON: Final = timedelta(days=2)
PATIENCE: Final = 300.0  # seconds
COUNTED: Final = ("read", "scored", "rejected", "duplicates")


@dataclass
class Findings:
    """What became of the records: how many came to which end, and every record that came to a wrong one."""

    ends: Counter[str]
    wrong: list[str]
    seconds: float
    resident: list[int] = field(default_factory=list)  # MB of the flow's process after each part


def through(
    flow: Flow, n: int, seed: int, parts: int, *, restart: bool = False, tell: Callable[[str], None] = print
) -> Findings:
    """Sends n records in so many parts, each after the one before it has been worked off; the flow must not run yet.

    ``restart``: the flow is stopped and started between the parts.
    """
    ledger = Ledger(flow.topics, (HORIZON - LATENESS) // MICROSECOND)
    posted = Posted(flow, ledger)
    records = fuzzed(seed)
    totals: Counter[str] = Counter()
    resident: list[int] = []
    began = time.monotonic()
    flow.start()
    for part in range(parts):
        at = time.monotonic()
        size = n * (part + 1) // parts - n * part // parts
        posted.send(judged(records, size))
        posted.await_committed()
        megabytes, cpu = flow.burden()
        resident.append(megabytes)
        posted.collect()
        took = time.monotonic() - at
        tell(
            f"{part + 1}/{parts}: {size:,} records in {took:.1f} s; flow: {megabytes:,} MB resident, {cpu} of CPU time"
        )
        if restart and part + 1 < parts:
            totals += _stop(flow)
            flow.start()
    seconds = time.monotonic() - began
    totals += _stop(flow)
    posted.close()
    ends = ledger.settle()
    # The flow keeps books of its own.
    own = {"read": n, "scored": ends["scored"], "duplicates": ends["duplicate"]}
    own["rejected"] = n - own["scored"] - own["duplicates"] - ends["label"]
    if dict(totals) != own:
        ledger.wrong.append(f"the flow counts {dict(totals)}, its topics show {own}")
    if ends.total() != n:
        ledger.wrong.append(f"{n:,} records were sent, {ends.total():,} came to an end")
    return Findings(ends, ledger.wrong, seconds, resident)


class Posted:
    """The records on their way in, and what has come out."""

    def __init__(self, flow: Flow, ledger: Ledger) -> None:
        self._flow = flow
        self._ledger = ledger
        servers = {"bootstrap.servers": flow.bootstrap, **QUIET}
        self._producer = Producer({**servers, "linger.ms": 20, **IN_ORDER})
        self._lag = Consumer({**servers, "group.id": "vigie"})
        self._outputs = Consumer({**servers, "group.id": "fuzz", "enable.partition.eof": True})
        self._outputs.assign(
            [TopicPartition(flow.topics[topic], n, 0) for topic in ("scored", "rejected") for n in range(PARTITIONS)]
        )
        self._next = {(purpose, number): 0 for purpose in ("transactions", "labels") for number in range(PARTITIONS)}

    def send(self, records: Iterator[Judged]) -> None:
        """Returns when Kafka has them all, at the offsets that the ledger was told."""
        for nth, record in enumerate(records):
            number = nth % PARTITIONS
            offset = self._next[record.purpose, number]
            self._next[record.purpose, number] += 1
            self._ledger.sent(record, number, offset)
            while True:
                try:
                    self._producer.produce(self._flow.topics[record.purpose], record.value, record.key, number)
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
        assert self._producer.flush(60) == 0

    def await_committed(self) -> None:
        """Returns when all that was sent has been worked off, and that is durable."""
        places = [TopicPartition(self._flow.topics[purpose], number) for purpose, number in self._next]
        give_up = time.monotonic() + PATIENCE
        while sum(max(0, place.offset) for place in self._lag.committed(places, 30)) < sum(self._next.values()):
            self._flow.check_alive()
            assert time.monotonic() < give_up, f"the flow is stuck\n{self._flow.console_text()[-3000:]}"
            time.sleep(0.1)

    def collect(self) -> None:
        """Reads the outputs to their ends."""
        for purpose in ("scored", "rejected"):
            settled.commits(self._flow.bootstrap, self._flow.topics[purpose])
        at_end: set[tuple[str | None, int | None]] = set()
        give_up = time.monotonic() + PATIENCE
        while len(at_end) < 2 * PARTITIONS:
            assert time.monotonic() < give_up, at_end
            for message in self._outputs.consume(10_000, 1.0):
                place = message.topic(), message.partition()
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    at_end.add(place)
                    continue
                at_end.discard(place)
                if message.topic() == self._flow.topics["scored"]:
                    self._ledger.scored(message.value())
                else:
                    headers = {str(header[0]): text(header[1]) for header in message.headers() or []}
                    self._ledger.rejected(message.key(), message.value(), headers)

    def close(self) -> None:
        """Leaves Kafka."""
        for client in (self._producer, self._lag, self._outputs):
            client.close()


def _stop(flow: Flow) -> Counter[str]:
    """What the flow has counted since it was started."""
    assert flow.stop() == 0, flow.console_text()
    last = flow.logged("so far")[-1]
    return Counter({name: last[name] for name in COUNTED})
