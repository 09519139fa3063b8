"""A reader of committed scores and alerts that notes when each came.

    python -m bench.arrivals BOOTSTRAP N FILE SECONDS SCORED [ALERTS]

As a process of its own it reads from the topics' ends on. It ends when it has N scores, and an alert for each that says
so, or after so many seconds without any. It writes a file of three columns: the number of each transaction, the
instant at which its score or alert was held, by ``time.monotonic``, and 1 for an alert.
"""

from __future__ import annotations

import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, Message, TopicPartition

from bench.traffic import PARTITIONS, number_of
from features.errors import ContenderFailure, KafkaFailure

STALLED: Final = 60.0  # seconds without any new score
PATIENCE: Final = 10.0  # seconds that Kafka may take to answer
AT_ONCE: Final = 10_000  # records: asked for one by one, they would take from the machine what the measured one needs


class Scored(msgspec.Struct):
    """What every contender writes."""

    transaction_id: str
    score: float
    alert: bool


decode = msgspec.json.Decoder(Scored).decode


def reader(bootstrap: str, *topics: str, from_end: bool = False) -> Consumer:
    """A consumer of all of the topics, or of what is to come; it waits no longer than it must for what is committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-reader",
            "enable.auto.commit": "false",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": "5",
        }
    )
    places = [TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)]
    if from_end:
        for place in places:
            _, place.offset = consumer.get_watermark_offsets(place, PATIENCE)
    consumer.assign(places)
    return consumer


class Arrivals:
    """Counts scores as they come, in a thread of its own; ``stamps``: the broker's times of them, milliseconds."""

    def __init__(self, bootstrap: str, topic: str, *, keep: bool = False) -> None:
        self.stamps: array[int] = array("q")
        self.kept: list[bytes] = []
        self._keep = keep
        self._consumer = reader(bootstrap, topic)
        self._over = threading.Event()
        self._failed: str | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self.stamps)

    def _read(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(2000, 0.05):
                if (error := message.error()) is not None:
                    self._failed = error.str()
                    return
                self._take(message)
        self._consumer.close()

    def _take(self, message: Message) -> None:
        if self._keep and (value := message.value()) is not None:
            self.kept.append(value)
        self.stamps.append(message.timestamp()[1])

    def check(self) -> None:
        """Raises ``KafkaFailure`` where reading has failed."""
        if self._failed:
            raise KafkaFailure(f"reading scores failed: {self._failed}")

    def close(self) -> None:
        """Leaves Kafka."""
        self._over.set()
        self._thread.join()  # more than once is well


def scores(kept: list[bytes]) -> dict[int, float]:
    """The scores by the number of their transaction."""
    return {number_of(scored.transaction_id): scored.score for scored in map(decode, kept)}


def main() -> int:
    """The process; see above."""
    bootstrap, wanted, file, seconds, scored, *others = sys.argv[1:]
    consumer = reader(bootstrap, scored, *others, from_end=True)
    values: list[bytes] = []
    instants: array[float] = array("d")
    alerts: array[int] = array("b")
    scored_so_far, owed = 0, 0  # alerts that scores have said and that have not come; one may come before its score
    consumer.poll(0)
    print("reading", flush=True)
    last = time.monotonic()
    while (scored_so_far < int(wanted) or owed) and time.monotonic() - last < float(seconds):
        if not (messages := consumer.consume(1, 0.1)):
            continue
        messages += consumer.consume(AT_ONCE, 0)
        last = time.monotonic()  # of them all: too late for each but the last one, never too early
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaFailure(f"reading {message.topic()} failed: {error.str()}")
            value = message.value() or b""
            alert = message.topic() != scored
            instants.append(last)
            values.append(value)
            alerts.append(alert)
            if alert:
                owed -= 1
            else:
                scored_so_far += 1
                owed += bool(others) and b'"alert":true' in value
    if scored_so_far >= int(wanted) and owed:
        raise ContenderFailure(f"{owed} alerts never came that scores had said")
    numbers = [number_of(decode(value).transaction_id) for value in values]
    np.save(Path(file), np.array([numbers, instants, alerts], np.float64))
    consumer.close()
    return 0


class Came(NamedTuple):
    """When the score of each transaction came, the first time, and its alert where it has one."""

    scores: dict[int, float]
    alerts: dict[int, float]


def loaded(file: Path) -> Came:
    """What the process has written."""
    found = Came({}, {})
    for number, instant, alert in np.load(file).T.tolist():
        (found.alerts if alert else found.scores).setdefault(int(number), instant)
    if not found.scores:
        raise ContenderFailure(f"no score came at all within {STALLED:.0f} seconds")
    return found


if __name__ == "__main__":
    sys.exit(main())
