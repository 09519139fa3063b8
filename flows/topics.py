"""Kafka as the flow finds it at the start: reachable or not, topics there or created."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from features.errors import InvalidSetting, KafkaFailure
from flows.settings import Settings

_log = logging.getLogger(__name__)


def partitions(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """The number of partitions of each topic; missing topics are created where the settings allow it.

    Raises ``KafkaFailure`` where Kafka does not answer in time, or a topic is missing and may not be created.
    """
    wanted = list(topics)
    admin = _admin(settings)
    found = _found(admin, settings)
    missing = [topic for topic in wanted if topic not in found]
    if missing and not settings.create_topics:
        raise KafkaFailure(
            f"no topic {', '.join(missing)} at {settings.bootstrap}; create it, or set VIGIE_CREATE_TOPICS=true"
        )
    if missing:
        _create(admin, missing, settings)
        found = _found(admin, settings)
    return {topic: found[topic] for topic in wanted}


def _admin(settings: Settings) -> AdminClient:
    try:
        return AdminClient(dict(settings.kafka), logger=_log)
    except KafkaException as error:
        raise InvalidSetting(
            f"the Kafka client refuses its properties: {error.args[0].str()}; each KAFKA_X_Y in the environment "
            "is taken as the client property x.y"
        ) from error


def _found(admin: AdminClient, settings: Settings) -> dict[str, int]:
    try:
        metadata = admin.list_topics(timeout=settings.kafka_timeout.total_seconds())
    except KafkaException as error:
        raise KafkaFailure(
            f"no Kafka at {settings.bootstrap} within {settings.kafka_timeout.total_seconds():g} s "
            f"({error.args[0].str()}); start one (`just kafka`), or set KAFKA_BOOTSTRAP_SERVERS or VIGIE_KAFKA_TIMEOUT"
        ) from error
    return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}


def _create(admin: AdminClient, topics: list[str], settings: Settings) -> None:
    created = admin.create_topics([NewTopic(topic, settings.topic_partitions) for topic in topics])
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
