"""Records on their way to Kafka, in Kafka's own transactions (here: commits, since Vigie's transactions are payments).

Group commit: what gathers while one commit is under way makes up the next, so the flow goes on computing while Kafka
works, and a commit costs the same for one record as for thousands. Readers of committed data see a commit whole, once,
or never. A process that opens an outbox fences the one that had its name before: that one writes no more, and what it
had not committed is dropped. So nothing comes late any more once all outboxes of a flow are open.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from features.errors import InvalidSetting, KafkaFailure
from flows import metrics, topics
from flows.invocation import Invocation
from flows.records import Outgoing
from flows.settings import Settings

PENDING: Final = 32_000_000  # bytes that may wait for the next commit before the flow waits for it
BATCH: Final = 1_000_000  # bytes, the client's own default
PAUSE: Final = 0.001  # seconds; Kafka makes a commit that follows another one at once wait for 20 ms
PATIENCE: Final = 300.0  # seconds that an outage of Kafka may last before the flow gives up
ASKING: Final = 10.0  # seconds to wait for Kafka's word on a commit before it is asked again

Headers = list[tuple[str, str | bytes | None]]

_log = logging.getLogger(__name__)
# A broker that has just started makes producers wait for their ids; the client says so at every try.
_log.addFilter(lambda record: "PID" not in record.getMessage() or "retrying" not in record.getMessage())

# What Kafka tells a process whose transactional.id another one has taken over.
FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
# What a record's delivery may fail for and succeed the next time: Kafka was away, or its commit was given up.
_PASSING: Final = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})


class Parcel(NamedTuple):
    """Records and the partition that they go to."""

    topic: str
    partition: int
    records: Sequence[Outgoing]


class Outbox:
    """The way out of one process, for all of its sinks; safe for several threads.

    ``name`` is Kafka's transactional.id: the same for this process of this flow at every start.
    """

    def __init__(
        self, properties: Mapping[str, str], name: str, timeout: float, limits: Mapping[str, int] | None = None
    ) -> None:
        """Fences the earlier process of this name; raises ``KafkaFailure`` where Kafka does not answer in time.

        ``limits``: of each topic the bytes of the largest record that it takes.
        """
        self.limits = limits or {}
        self._name = name
        # A topic's limit holds for a batch as it does for a record.
        try:
            self._producer = _transactional(
                {"batch.size": str(min([BATCH, *self.limits.values()])), **properties}, name
            )
        except KafkaException as error:
            raise InvalidSetting(
                f"the Kafka client refuses its properties for a producer: {error.args[0].str()}; each KAFKA_X_Y in the "
                "environment is taken as the client property x.y"
            ) from error
        _take_over(self._producer, name, timeout)
        self._changed = threading.Condition()
        self._pending: list[Parcel] = []
        self._weight = 0  # of what is pending, in bytes
        self._under_way = False
        self._ends: dict[tuple[str, int], int] = {}
        self._refused: tuple[str, int, KafkaError] | None = None  # the record that Kafka did not take, in this commit
        self._failure: KafkaFailure | None = None
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    def put(self, parcels: Sequence[Parcel]) -> None:
        """Hands records over, which will be in one commit; blocks only while too much waits.

        Raises ``KafkaFailure`` once a commit has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._weight < PENDING or self._failure)
            self._raise_failure()
            self._pending += parcels
            self._weight += sum(len(r.key or b"") + len(r.value or b"") for p in parcels for r in p.records)
            self._changed.notify_all()

    def busy(self) -> bool:
        """Whether a commit is under way, for which the next one has to wait."""
        return self._under_way

    def settle(self) -> None:
        """Returns when everything handed over is committed; raises ``KafkaFailure`` where it cannot be."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._pending or self._under_way) or self._failure)
            self._raise_failure()

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last record that this outbox committed to the partition; 0 before the first."""
        return self._ends.get((topic, partition), 0)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                batch, self._pending, self._weight = self._pending, [], 0
                self._under_way = True
                self._changed.notify_all()
            try:
                ends = self._commit(batch)
            except KafkaFailure as failure:
                self._fail(failure)
                return
            except BaseException as error:
                self._fail(
                    KafkaFailure(f"the outbox {self._name} failed: {error!r}; the flow stops so that none is lost")
                )
                raise
            now = time.time()
            metrics.LATENCY.observe([now - r.arrived / 1000 for p in batch for r in p.records if r.arrived])
            with self._changed:
                self._ends |= ends
                self._under_way = False
                self._changed.notify_all()
            time.sleep(PAUSE)

    def _fail(self, failure: KafkaFailure) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _commit(self, parcels: Sequence[Parcel]) -> dict[tuple[str, int], int]:
        """Commits the records, again and again while Kafka is away; the offsets after the last ones."""
        give_up = time.monotonic() + PATIENCE
        by_partition: dict[tuple[str, int], list[Outgoing]] = {}
        for topic, partition, records in parcels:
            by_partition.setdefault((topic, partition), []).extend(records)
        asked = False
        while True:
            ends: dict[tuple[str, int], int] = {}
            self._refused = None
            try:
                self._patiently(self._producer.begin_transaction, give_up)
                for (topic, partition), records in by_partition.items():
                    self._produce(topic, partition, records, ends, asked=asked)
                self._patiently(lambda: self._producer.commit_transaction(ASKING), give_up)
            except KafkaException as exception:
                error = exception.args[0]
                if self._is_final(error) or time.monotonic() > give_up:
                    raise self._explained(error) from exception
                _log.warning("a commit failed and is repeated: %s", error.str())
                self._abort(give_up)
                asked = True
            else:
                return ends

    def _produce(
        self,
        topic: str,
        partition: int,
        records: Sequence[Outgoing],
        ends: dict[tuple[str, int], int],
        *,
        asked: bool,
    ) -> None:
        """Hands a partition's records to the client.

        A commit fails where one of its records does, so the last one tells enough; ``asked``: who was it, then?
        """

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._refused = self._refused or (topic, partition, error)
            else:
                ends[topic, partition] = (message.offset() or 0) + 1

        produce, last = self._producer.produce, len(records) - 1
        for i, record in enumerate(records):
            on_delivery = delivered if asked or i == last else None
            while True:
                try:
                    if record.headers:
                        headers: Headers = list(record.headers.items())
                        produce(topic, record.value, record.key, partition, on_delivery, headers=headers)
                    else:  # an empty list would cost as much as all the rest
                        produce(topic, record.value, record.key, partition, on_delivery)
                except BufferError:
                    self._producer.poll(0.1)
                except KafkaException as exception:
                    if exception.args[0].code() != KafkaError._STATE:  # that says only that the commit is given up
                        self._refused = self._refused or (topic, partition, exception.args[0])
                    raise
                else:
                    break

    def _abort(self, give_up: float) -> None:
        try:
            self._patiently(lambda: self._producer.abort_transaction(ASKING), give_up)
        except KafkaException as exception:
            raise self._explained(exception.args[0]) from exception

    def _patiently(self, call: Callable[[], None], give_up: float) -> None:
        """The call, again while it only takes its time: it then goes on where it was."""
        while True:
            try:
                call()
            except KafkaException as exception:
                if not exception.args[0].retriable() or time.monotonic() > give_up:
                    raise
            else:
                return

    def _is_final(self, error: KafkaError) -> bool:
        """Whether the same records would fail again."""
        return error.fatal() or (self._refused is not None and self._refused[2].code() not in _PASSING)

    def _explained(self, error: KafkaError) -> KafkaFailure:
        if error.code() in FENCED:
            return KafkaFailure(
                f"another process has taken over as {self._name}, or Kafka gave this one up after a pause that was "
                "too long; this one stops, so that nothing is written twice"
            )
        if self._refused is not None:
            topic, partition, error = self._refused
            return KafkaFailure(
                f"{topic}[{partition}] did not take a record: {error.str()}; the flow stops so that none is lost: "
                "it writes them again when it starts"
            )
        return KafkaFailure(
            f"Kafka did not commit what {self._name} wrote: {error.str()}; the flow stops so that none is lost: it "
            "writes them again when it starts"
        )


def open_outbox(settings: Settings, place: Invocation, processes: int) -> Outbox:
    """The outbox of this process; ``processes``: how many the flow may have had before, where that is known.

    Where those were more, this process also fences the ones that have no successor.
    """
    prefix = f"{settings.group}-{settings.scored_topic}"
    left = range(place.count, processes)
    with ThreadPoolExecutor() as pool:
        for fenced in [pool.submit(_fence, settings.kafka, f"{prefix}-{index}", settings.patience) for index in left]:
            fenced.result()
    limits = topics.largest_records(settings, settings.topics[2:])
    return Outbox(settings.kafka, f"{prefix}-{place.index}", settings.patience, limits)


def _fence(properties: Mapping[str, str], name: str, timeout: float) -> None:
    """Ends the right to write of a process that has no successor; raises ``KafkaFailure`` as an outbox does."""
    producer = _transactional(properties, name)
    _take_over(producer, name, timeout)
    producer.close()


def _transactional(properties: Mapping[str, str], name: str) -> Producer:
    return Producer(
        {
            "linger.ms": "2",
            "compression.type": "lz4",
            "message.max.bytes": "10000000",  # the topic sets the limit
            **properties,
            "transactional.id": name,
            "enable.idempotence": "true",
            "acks": "all",
            "logger": _log,
        }
    )


def _take_over(producer: Producer, name: str, timeout: float) -> None:
    give_up = time.monotonic() + timeout
    while True:
        try:
            producer.init_transactions(max(0.1, give_up - time.monotonic()))
        except KafkaException as exception:
            error = exception.args[0]
            if not error.retriable() or time.monotonic() > give_up:
                raise KafkaFailure(
                    f"Kafka does not let this process write as {name}: {error.str()}; allow it the transactional.id, "
                    "or raise VIGIE_KAFKA_TIMEOUT where Kafka was only slow"
                ) from exception
        else:
            return
