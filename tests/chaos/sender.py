"""The producer that never stops: a thread that sends the stream at an even pace, whatever happens around it."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from tests.chaos.stream import Item
from tests.flows.running import QUIET

MARGIN: Final = 2.0  # seconds between a label's arrival in Kafka and the transactions that may know of it
BURST: Final = 200  # messages; what an outage kept back beyond that is not made up for


class Sender(threading.Thread):
    """Sends until it is told to stop; idempotent, so the log holds each message once and in the order of sending.

    A transaction waits until the labels that count at its event time lie in Kafka, and have for a while: so a flow
    that is running has read them, and one that starts reads them in step.
    """

    def __init__(self, bootstrap: str, topics: Mapping[str, str], stream: Iterable[Item], rate: float) -> None:
        super().__init__(name="sender", daemon=True)
        self._topics = topics
        self._stream = iter(stream)
        self._rate = rate
        self._stopping = threading.Event()
        self._labels: list[tuple[int, int]] = []  # from when a label counts, its number
        self._arrived: dict[int, float] = {}  # when Kafka had it
        self._failure: BaseException | None = None
        self.sent = 0
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                **QUIET,
            }
        )

    def send_history(self, until: int) -> None:
        """Sends the stream up to that event time as fast as it goes, before the thread and the flow are started.

        The first record after it is left out.
        """
        for item in takewhile(lambda item: item.instant < until, self._stream):
            self._produce(item)
        assert self._producer.flush(60) == 0

    def run(self) -> None:
        """The thread."""
        try:
            self._send()
        except BaseException as error:
            self._failure = error
            raise

    def stop(self) -> None:
        """Sends no more."""
        self._stopping.set()

    def finish(self) -> None:
        """Sends no more; returns when Kafka has all that was sent."""
        self.stop()
        self.join()
        if self._failure is not None:
            raise self._failure
        left = self._producer.flush(120)
        assert left == 0, f"Kafka did not take {left} messages"

    def check(self) -> None:
        """Raises what ended the thread, if anything has."""
        if self._failure is not None:
            raise self._failure

    def _send(self) -> None:
        due = time.monotonic()
        for item in self._stream:
            due = max(due + 1 / self._rate, time.monotonic() - BURST / self._rate)
            while not self._stopping.is_set() and (time.monotonic() < due or not self._may_go(item)):
                self._producer.poll(min(0.01, max(0.0, due - time.monotonic())) or 0.01)
            if self._stopping.is_set():
                return
            self._produce(item)

    def _produce(self, item: Item) -> None:
        number = self.sent

        def delivered(error: KafkaError | None, _message: Message) -> None:
            assert error is None, error
            self._arrived[number] = time.monotonic()

        if item.label is None:
            self._producer.produce(self._topics[item.purpose], item.sent.value, item.sent.key)
        else:
            heapq.heappush(self._labels, (item.label.labelled_at, number))
            self._producer.produce(self._topics[item.purpose], item.sent.value, item.sent.key, on_delivery=delivered)
        self._producer.poll(0)
        self.sent += 1

    def _may_go(self, item: Item) -> bool:
        while self._labels and self._labels[0][0] <= item.instant:
            arrived = self._arrived.get(self._labels[0][1])
            if arrived is None or time.monotonic() - arrived < MARGIN:
                return False
            del self._arrived[heapq.heappop(self._labels)[1]]
        return True
