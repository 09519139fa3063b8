"""Kafka as the flow finds it at the start: reachable or not, topics there or created."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from features.errors import InvalidSetting, KafkaFailure
from flows.settings import GROUP, Settings

DEFAULT_LARGEST: Final = 1_048_588  # bytes, Kafka's max.message.bytes
# A Kafka that is there but does not let the client in, and what to check then. It gets no better by waiting.
_REFUSALS: Final = {
    KafkaError._AUTHENTICATION: "refuses the login; check KAFKA_SASL_MECHANISMS, KAFKA_SASL_USERNAME and "
    "KAFKA_SASL_PASSWORD",
    KafkaError._SSL: "gives no TLS connection; check KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_LOCATION and, where Kafka "
    "asks for a certificate, KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION",
}

_log = logging.getLogger(__name__)


class Making(NamedTuple):
    """How topics are made, beside their partitions; what is not given here is as the broker has it."""

    replication_factor: int = -1
    config: Mapping[str, str] = {}


def partitions(settings: Settings, topics: Iterable[str], making: Making | None = None) -> dict[str, int]:
    """The number of partitions of each topic; missing topics are created where the settings allow it.

    Raises ``KafkaFailure`` where Kafka does not answer in time, or a topic is missing and may not be created.
    """
    wanted = list(topics)
    said: list[KafkaError] = []
    admin = client(settings, said)
    give_up = time.monotonic() + settings.patience
    while missing := [topic for topic in wanted if topic not in (found := _found(admin, settings, said))]:
        if not settings.create_topics or time.monotonic() > give_up:
            raise KafkaFailure(
                f"no topic {', '.join(missing)} at {settings.bootstrap}; create it, or set VIGIE_CREATE_TOPICS=true"
            )
        # Listed a moment after it is created, so this may have to be asked again.
        _create(admin, missing, settings, making or Making())
        time.sleep(0.1)
    return {topic: found[topic] for topic in wanted}


def edges(consumer: Consumer, topic: str, number: int, settings: Settings) -> tuple[int, int]:
    """The first offset that a partition holds and the next one that it will give.

    Raises ``KafkaFailure`` where Kafka does not tell in time.
    """
    patience = settings.patience
    give_up = time.monotonic() + patience
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), patience)
        except KafkaException as error:
            # A topic that was just created has no leader for a moment.
            if time.monotonic() > give_up:
                raise KafkaFailure(f"{topic}[{number}] does not tell its offsets: {error.args[0].str()}") from error
            time.sleep(0.1)
        else:
            return low, high


def starts(
    consumer: Consumer, settings: Settings, topics: Iterable[str], saved: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    """Of each partition of the topics the offset to read from: the saved one, or else as VIGIE_START_FROM says.

    Raises ``KafkaFailure`` where a partition no longer holds its saved offset, unless VIGIE_EXPIRED_OFFSETS says skip.
    """
    found: dict[tuple[str, int], int] = {}
    expired: list[str] = []
    for topic, count in partitions(settings, topics).items():
        for number in range(count):
            low, high = edges(consumer, topic, number, settings)
            # A partition that was added since the start is read whole.
            unsaved = low if saved or settings.start_from == "earliest" else high
            offset = saved.get((topic, number), unsaved)
            if offset > high:
                raise KafkaFailure(
                    f"{topic}[{number}] ends at offset {high}, and the flow has come to {offset}: the topic has lost "
                    "records; restore it, or begin anew with an empty recovery directory (`just warm` fills it)"
                )
            if offset < low:
                expired.append(f"{topic}[{number}] offsets {offset} to {low - 1}")
            found[topic, number] = max(low, offset)
    if expired and settings.expired_offsets == "refuse":
        raise KafkaFailure(
            f"Kafka has deleted records that were not read yet: {'; '.join(expired)}. Restore them (with the retention "
            "of the topics raised, so that it does not happen again), or set VIGIE_EXPIRED_OFFSETS=skip to go on "
            "without them, or fill an empty recovery directory from a history (`just warm`)"
        )
    for span in expired:
        _log.error("skipped, because Kafka has deleted them and VIGIE_EXPIRED_OFFSETS=skip: %s", span)
    return found


def ids(settings: Settings) -> dict[str, str]:
    """Kafka's own ids of the input topics, by name; one that is deleted and made again gets another."""
    names = [settings.transactions_topic, settings.labels_topic]
    admin = client(settings)  # an answer needs its client until it is there
    described = admin.describe_topics(TopicCollection(names), request_timeout=settings.patience)
    try:
        return {name: str(future.result().topic_id) for name, future in described.items()}
    except KafkaException as error:
        raise KafkaFailure(f"{settings.bootstrap} does not describe {names}: {error.args[0].str()}") from error


def edges_of(settings: Settings, topics: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """Of each topic, by partition, the first offset that it holds and the next one that it will give."""
    consumer = Consumer({**settings.kafka, "group.id": f"{GROUP}-ends"})
    try:
        return {
            topic: [edges(consumer, topic, number, settings) for number in range(count)]
            for topic, count in partitions(settings, topics).items()
        }
    finally:
        consumer.close()


def ends(settings: Settings, topics: Iterable[str]) -> dict[str, list[int]]:
    """The next offset of each partition of the topics."""
    return {topic: [high for _, high in of_topic] for topic, of_topic in edges_of(settings, topics).items()}


def beginnings(settings: Settings, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """The first offset that each partition of the topics holds."""
    found = edges_of(settings, topics)
    return {(topic, number): low for topic, of_topic in found.items() for number, (low, _) in enumerate(of_topic)}


def largest_records(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """The size in bytes of the largest record that each topic takes, with key, headers and framing."""
    names = list(topics)
    wanted = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in names]
    admin = client(settings)  # as above
    try:
        answers = admin.describe_configs(wanted, request_timeout=min(5.0, settings.patience))
        return {config.name: int(answer.result()["max.message.bytes"].value) for config, answer in answers.items()}
    except KafkaException as error:
        _log.warning("%s do not tell their largest records (%s); Kafka's default is assumed", names, error)
        return dict.fromkeys(names, DEFAULT_LARGEST)


def client(settings: Settings, said: list[KafkaError] | None = None) -> AdminClient:
    """A client for administration; ``said`` gets the errors that it meets on its way to Kafka, at each ``poll``.

    Raises ``InvalidSetting`` where it refuses its properties.
    """
    properties: dict[str, Any] = dict(settings.kafka)
    if said is not None:
        properties["error_cb"] = said.append
    try:
        return AdminClient(properties, logger=_log)
    except KafkaException as error:
        raise InvalidSetting(
            f"the Kafka client refuses its properties: {error.args[0].str()}; each KAFKA_X_Y in the environment "
            "is taken as the client property x.y"
        ) from error


def _found(admin: AdminClient, settings: Settings, said: list[KafkaError]) -> dict[str, int]:
    patience = settings.patience
    give_up = time.monotonic() + patience
    wait = 0.5
    while True:
        try:
            # Not all at once: a question that waits hears nothing of why there is no answer.
            metadata = admin.list_topics(timeout=min(wait, max(0.1, give_up - time.monotonic())))
            return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}
        except KafkaException as error:
            admin.poll(0)
            over = time.monotonic() >= give_up
            for reason in said:
                # A broker that goes away in the middle of a handshake looks the same as one that refuses it.
                code = KafkaError._SSL if over and "SSL" in reason.str() else reason.code()
                if (refusal := _REFUSALS.get(code)) is not None:
                    raise KafkaFailure(f"Kafka at {settings.bootstrap} {refusal} ({reason.str()})") from error
            if over:
                # Where nobody listens the client says so; this is all that it says where somebody hangs up.
                hung_up = said and all(reason.code() == KafkaError._ALL_BROKERS_DOWN for reason in said)
                remedy = "; or KAFKA_SECURITY_PROTOCOL, for something there hangs up" if hung_up else ""
                raise KafkaFailure(
                    f"no Kafka at {settings.bootstrap} within {patience:g} s ({error.args[0].str()}); start one "
                    f"(`just kafka`), or set KAFKA_BOOTSTRAP_SERVERS or VIGIE_KAFKA_TIMEOUT{remedy}"
                ) from error
            wait *= 2


def _create(admin: AdminClient, topics: list[str], settings: Settings, making: Making) -> None:
    # A record with the headers of its rejection must fit where the record itself came from.
    larger = {settings.rejected_topic: {"max.message.bytes": str(2 * DEFAULT_LARGEST)}}
    created = admin.create_topics(
        [
            NewTopic(
                topic,
                settings.topic_partitions,
                making.replication_factor,
                config={**larger.get(topic, {}), **making.config},
            )
            for topic in topics
        ]
    )
    for topic, future in created.items():
        try:
            future.result()
            _log.info("created topic", extra={"topic": topic, "partitions": settings.topic_partitions})
        except KafkaException as error:
            # Another worker that starts at the same moment may have been faster.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise KafkaFailure(
                    f"topic {topic} cannot be created: {error.args[0].str()}; create it by hand"
                ) from error
