"""Records and the progress that they mean, in one Kafka transaction: both are there afterwards, or neither."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from features.errors import KafkaFailure
from flows import topics
from flows.outbox import FENCED
from flows.settings import Settings

ANYWHERE: Final = -1  # where the key decides
# How long a record may take is up to the transaction here; the group is the consumer's.
_NOT_HERE: Final = {"message.timeout.ms", "delivery.timeout.ms", "group.id"}

_log = logging.getLogger(__name__)


class Resent(NamedTuple):
    """A record on its way back; without a partition its key decides."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str]


class Sender:
    """A transactional producer; one that is made with the same id fences those made before it.

    Raises ``KafkaFailure`` where Kafka does not take a transaction. Whoever reads committed records only, as the flow
    does, waits for an open transaction, and one whose sender was killed stays open until it times out: so they are
    short, and time out soon.
    """

    def __init__(self, settings: Settings, identity: str) -> None:
        self._patience = settings.patience
        smallest = min(topics.largest_records(settings, settings.topics[:2]).values())
        chosen = {name: value for name, value in settings.kafka.items() if name not in _NOT_HERE}
        try:
            self._producer = Producer(
                {
                    "linger.ms": "2",
                    "compression.type": "lz4",
                    "message.max.bytes": "10000000",  # the topic sets the limit
                    "batch.size": str(min(1_000_000, smallest)),  # and holds a batch against it
                    "transaction.timeout.ms": "10000",
                    **chosen,
                    "enable.idempotence": "true",
                    "acks": "all",
                    "transactional.id": identity,
                    "logger": _log,
                }
            )
            self._producer.init_transactions(self._patience)
        except KafkaException as error:
            self._fail(error)

    def transact(self, records: list[Resent], progress: TopicPartition, group: object) -> None:
        """Sends the records and commits the offset, in the group whose metadata is given; all of it or nothing."""
        try:
            self._producer.begin_transaction()
            for topic, partition, key, value, headers in records:
                where = ANYWHERE if partition is None else partition
                while True:
                    try:
                        self._producer.produce(topic, value, key, where, headers=list(headers.items()))
                        break
                    except BufferError:
                        self._producer.poll(0.1)
                self._producer.poll(0)
            self._producer.send_offsets_to_transaction([progress], group, self._patience)
            self._producer.commit_transaction(self._patience)
        except BaseException as error:
            # Where Kafka cannot be told, it finds out by itself: the transaction times out, or the next sender ends it.
            with suppress(KafkaException):
                self._producer.abort_transaction(self._patience)
            if isinstance(error, KafkaException):
                self._fail(error)
            raise

    def close(self) -> None:
        """Leaves Kafka."""
        with suppress(KafkaException):  # one that was fenced says so again
            self._producer.close()

    def _fail(self, error: KafkaException) -> NoReturn:
        reason: KafkaError = error.args[0]
        if reason.code() in FENCED:
            raise KafkaFailure("another redrive has started since and goes on from where this one was") from error
        raise KafkaFailure(
            f"Kafka did not take a transaction: {reason.str()}; nothing of it counts, and the next redrive begins there"
        ) from error
