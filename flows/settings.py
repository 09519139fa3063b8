"""Everything that can be set, read once from the environment into one frozen object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, cast

from features.errors import InvalidSetting
from features.transaction import microseconds

GROUP: Final = "vigie"  # the consumer group, where KAFKA_GROUP_ID does not set another
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# Kubernetes gives every pod variables about a Service named "kafka" or "kafka-..."; they are no client properties.
_SERVICE_LINK: Final = re.compile(r"KAFKA_(\w+_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_\w+)?$")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the flow; the README's table says what each one means."""

    kafka: Mapping[str, str]  # client properties, ``bootstrap.servers`` among them
    transactions_topic: str
    labels_topic: str
    scored_topic: str
    alerts_topic: str
    rejected_topic: str
    model: Path
    allowed_lateness: timedelta
    future_tolerance: timedelta
    duplicate_horizon: timedelta
    scored_features: bool
    create_topics: bool
    topic_partitions: int
    start_from: Literal["earliest", "latest"]
    expired_offsets: Literal["refuse", "skip"]
    kafka_timeout: timedelta
    stop_timeout: timedelta
    pods: int | None
    http_port: int | None
    stall_timeout: timedelta
    log_level: str
    log_directory: Path

    @property
    def topics(self) -> tuple[str, str, str, str, str]:
        """All five topics."""
        return self.transactions_topic, self.labels_topic, self.scored_topic, self.alerts_topic, self.rejected_topic

    @property
    def outputs(self) -> tuple[str, str]:
        """The topics that tell what is done: each record in is in one of them; alerts only go with scores."""
        return self.scored_topic, self.rejected_topic

    @property
    def group(self) -> str:
        """The flow's consumer group."""
        return self.kafka.get("group.id", GROUP)

    @property
    def bootstrap(self) -> str:
        """Where Kafka is."""
        return self.kafka["bootstrap.servers"]

    @property
    def patience(self) -> float:
        """How long to wait for Kafka, in seconds."""
        return self.kafka_timeout.total_seconds()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads the variables; raises ``InvalidSetting`` with the value found and the form that is accepted."""
        environment = {name: value for name, value in environment.items() if value}  # empty is unset
        get = environment.get
        settings = cls(
            kafka=kafka_properties(environment),
            transactions_topic=get("VIGIE_TRANSACTIONS_TOPIC", "transactions"),
            labels_topic=get("VIGIE_LABELS_TOPIC", "labels"),
            scored_topic=get("VIGIE_SCORED_TOPIC", "scored"),
            alerts_topic=get("VIGIE_ALERTS_TOPIC", "alerts"),
            rejected_topic=get("VIGIE_REJECTED_TOPIC", "rejected"),
            model=Path(get("VIGIE_MODEL", "artifacts/models/current")),
            allowed_lateness=_span(environment, "VIGIE_ALLOWED_LATENESS", "1d"),
            future_tolerance=_span(environment, "VIGIE_FUTURE_TOLERANCE", "5m"),
            duplicate_horizon=_span(environment, "VIGIE_DUPLICATE_HORIZON", "2d"),
            scored_features=_flag(environment, "VIGIE_SCORED_FEATURES", "false"),
            create_topics=_flag(environment, "VIGIE_CREATE_TOPICS", "true"),
            topic_partitions=_count(environment, "VIGIE_TOPIC_PARTITIONS", "4"),
            start_from=cast(
                'Literal["earliest", "latest"]',
                _choice(environment, "VIGIE_START_FROM", "earliest", ("earliest", "latest")),
            ),
            expired_offsets=cast(
                'Literal["refuse", "skip"]',
                _choice(environment, "VIGIE_EXPIRED_OFFSETS", "refuse", ("refuse", "skip")),
            ),
            kafka_timeout=_span(environment, "VIGIE_KAFKA_TIMEOUT", "30s"),
            stop_timeout=_span(environment, "VIGIE_STOP_TIMEOUT", "20s"),
            pods=_count(environment, "VIGIE_PODS", "") if "VIGIE_PODS" in environment else None,
            http_port=_count(environment, "VIGIE_HTTP_PORT", "") if "VIGIE_HTTP_PORT" in environment else None,
            stall_timeout=_span(environment, "VIGIE_STALL_TIMEOUT", "6m"),
            log_level=_choice(environment, "VIGIE_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            log_directory=Path(get("VIGIE_LOG_DIRECTORY", "logs")),
        )
        if len(set(settings.topics)) < len(settings.topics):
            raise InvalidSetting(
                f"VIGIE_TRANSACTIONS_TOPIC, _LABELS_, _SCORED_, _ALERTS_ and _REJECTED_TOPIC are "
                f"{', '.join(settings.topics)}; give each topic a name of its own"
            )
        if settings.duplicate_horizon < settings.allowed_lateness:
            raise InvalidSetting(
                f"VIGIE_DUPLICATE_HORIZON is {settings.duplicate_horizon}, less than VIGIE_ALLOWED_LATENESS "
                f"({settings.allowed_lateness}): a late repeat would be scored again; raise it"
            )
        return settings


def kafka_properties(environment: Mapping[str, str]) -> dict[str, str]:
    """The Kafka client's properties: KAFKA_BOOTSTRAP_SERVERS, and x.y for every other KAFKA_X_Y."""
    properties = {"bootstrap.servers": "localhost:9092"}
    for name, value in environment.items():
        if name.startswith("KAFKA_") and not _SERVICE_LINK.match(name):
            properties[name.removeprefix("KAFKA_").lower().replace("_", ".")] = value
    return properties


def span(text: str) -> timedelta:
    """A span such as 90s, 15m, 12h or 7d; raises ``ValueError``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a span such as 90s, 15m, 12h or 7d")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


def instant(text: str) -> int:
    """An RFC 3339 instant as microseconds since 1970; raises ``ValueError``."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{text!r} is not an instant such as 2026-04-01T12:00:00Z")
    return microseconds(moment)


def _span(environment: Mapping[str, str], name: str, default: str) -> timedelta:
    value = environment.get(name, default)
    try:
        return span(value)
    except (ValueError, OverflowError) as error:
        raise InvalidSetting(f"{name} is {value!r}; set a span such as 90s, 15m, 12h or 7d") from error


def _flag(environment: Mapping[str, str], name: str, default: str) -> bool:
    return _choice(environment, name, default, ("true", "false")) == "true"


def _choice(environment: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = environment.get(name, default)
    for choice in allowed:
        if value.lower() == choice.lower():
            return choice
    raise InvalidSetting(f"{name} is {value!r}; set one of {', '.join(allowed)}")


def _count(environment: Mapping[str, str], name: str, default: str) -> int:
    value = environment.get(name, default)
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise InvalidSetting(f"{name} is {value!r}; set a whole number from 1")
    return int(value)
