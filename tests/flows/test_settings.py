"""Every variable, its default, and what is said of a value that cannot be used."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidSetting
from flows.settings import Settings, kafka_properties, span

DEFAULTS: dict[str, Any] = {
    "kafka": {"bootstrap.servers": "localhost:9092"},
    "transactions_topic": "transactions",
    "labels_topic": "labels",
    "scored_topic": "scored",
    "alerts_topic": "alerts",
    "rejected_topic": "rejected",
    "model": Path("artifacts/models/current"),
    "allowed_lateness": timedelta(days=1),
    "future_tolerance": timedelta(minutes=5),
    "duplicate_horizon": timedelta(days=2),
    "scored_features": False,
    "create_topics": True,
    "topic_partitions": 4,
    "start_from": "earliest",
    "expired_offsets": "refuse",
    "kafka_timeout": timedelta(seconds=30),
    "stop_timeout": timedelta(seconds=20),
    "pods": None,
    "http_port": None,
    "stall_timeout": timedelta(minutes=6),
    "log_level": "INFO",
    "log_directory": Path("logs"),
}
# Variable, value, field, what it becomes.
OTHERS: list[tuple[str, str, str, object]] = [
    ("VIGIE_TRANSACTIONS_TOPIC", "payments", "transactions_topic", "payments"),
    ("VIGIE_LABELS_TOPIC", "chargebacks", "labels_topic", "chargebacks"),
    ("VIGIE_SCORED_TOPIC", "x", "scored_topic", "x"),
    ("VIGIE_ALERTS_TOPIC", "x", "alerts_topic", "x"),
    ("VIGIE_REJECTED_TOPIC", "x", "rejected_topic", "x"),
    ("VIGIE_MODEL", "/models/7", "model", Path("/models/7")),
    ("VIGIE_ALLOWED_LATENESS", "12h", "allowed_lateness", timedelta(hours=12)),
    ("VIGIE_FUTURE_TOLERANCE", "90s", "future_tolerance", timedelta(seconds=90)),
    ("VIGIE_DUPLICATE_HORIZON", "7d", "duplicate_horizon", timedelta(days=7)),
    ("VIGIE_SCORED_FEATURES", "True", "scored_features", True),
    ("VIGIE_CREATE_TOPICS", "false", "create_topics", False),
    ("VIGIE_TOPIC_PARTITIONS", "12", "topic_partitions", 12),
    ("VIGIE_START_FROM", "LATEST", "start_from", "latest"),
    ("VIGIE_KAFKA_TIMEOUT", "1.5m", "kafka_timeout", timedelta(seconds=90)),
    ("VIGIE_STOP_TIMEOUT", "5s", "stop_timeout", timedelta(seconds=5)),
    ("VIGIE_PODS", "3", "pods", 3),
    ("VIGIE_HTTP_PORT", "8080", "http_port", 8080),
    ("VIGIE_STALL_TIMEOUT", "10m", "stall_timeout", timedelta(minutes=10)),
    ("VIGIE_EXPIRED_OFFSETS", "Skip", "expired_offsets", "skip"),
    ("VIGIE_LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ("VIGIE_LOG_DIRECTORY", "/var/log/vigie", "log_directory", Path("/var/log/vigie")),
]
# Variable, value that cannot be used, what the message must say beside both.
UNUSABLE = [
    ("VIGIE_ALLOWED_LATENESS", "1 day", "12h"),
    ("VIGIE_ALLOWED_LATENESS", "-1d", "12h"),
    ("VIGIE_FUTURE_TOLERANCE", "5", "15m"),
    ("VIGIE_DUPLICATE_HORIZON", "P2D", "7d"),
    ("VIGIE_KAFKA_TIMEOUT", "soon", "90s"),
    ("VIGIE_SCORED_FEATURES", "yes", "true, false"),
    ("VIGIE_CREATE_TOPICS", "0", "true, false"),
    ("VIGIE_TOPIC_PARTITIONS", "0", "a whole number from 1"),
    ("VIGIE_PODS", "0", "a whole number from 1"),
    ("VIGIE_PODS", "two", "a whole number from 1"),
    ("VIGIE_HTTP_PORT", "http", "a whole number from 1"),
    ("VIGIE_STALL_TIMEOUT", "360", "90s"),
    ("VIGIE_TOPIC_PARTITIONS", "4.0", "a whole number from 1"),
    ("VIGIE_TOPIC_PARTITIONS", "٣", "a whole number from 1"),
    ("VIGIE_START_FROM", "now", "earliest, latest"),
    ("VIGIE_EXPIRED_OFFSETS", "ignore", "refuse, skip"),
    ("VIGIE_LOG_LEVEL", "TRACE", "DEBUG, INFO, WARNING, ERROR"),
]


def test_defaults() -> None:
    settings = Settings.from_environment({"PATH": "/bin", "VIGIE": "x", "BYTEWAX_PROCESS_ID": "0"})
    assert {name: getattr(settings, name) for name in Settings.__slots__} == DEFAULTS
    assert settings.bootstrap == "localhost:9092"
    assert settings.topics == ("transactions", "labels", "scored", "alerts", "rejected")


def test_every_setting_has_a_variable_here() -> None:
    assert {field for _, _, field, _ in OTHERS} | {"kafka"} == set(Settings.__slots__)


@pytest.mark.parametrize(("variable", "value", "field", "becomes"), OTHERS)
def test_each_variable_changes_its_field_alone(variable: str, value: str, field: str, becomes: object) -> None:
    settings = Settings.from_environment({variable: value})
    assert {name: getattr(settings, name) for name in Settings.__slots__} == DEFAULTS | {field: becomes}


@pytest.mark.parametrize("variable", [variable for variable, *_ in OTHERS])
def test_an_empty_variable_is_unset(variable: str) -> None:
    assert Settings.from_environment({variable: ""}) == Settings.from_environment({})


@pytest.mark.parametrize(("variable", "value", "form"), UNUSABLE)
def test_an_unusable_value_is_named_with_its_variable_and_the_form_that_is_accepted(
    variable: str, value: str, form: str
) -> None:
    with pytest.raises(InvalidSetting) as raised:
        Settings.from_environment({variable: value})
    message = str(raised.value)
    assert variable in message
    assert repr(value) in message
    assert form in message


def test_a_span_beyond_all_measure_is_named_too() -> None:
    with pytest.raises(InvalidSetting, match=r"VIGIE_ALLOWED_LATENESS.*99999999999"):
        Settings.from_environment({"VIGIE_ALLOWED_LATENESS": "99999999999d"})


def test_two_topics_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"VIGIE_TRANSACTIONS_TOPIC.*scored.*a name of its own"):
        Settings.from_environment({"VIGIE_TRANSACTIONS_TOPIC": "scored"})


def test_a_duplicate_horizon_shorter_than_the_lateness_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"VIGIE_DUPLICATE_HORIZON is 12:00:00.*VIGIE_ALLOWED_LATENESS.*raise it"):
        Settings.from_environment({"VIGIE_DUPLICATE_HORIZON": "12h"})
    Settings.from_environment({"VIGIE_DUPLICATE_HORIZON": "12h", "VIGIE_ALLOWED_LATENESS": "12h"})


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.from_environment({}).model = Path("other")  # type: ignore[misc]


def test_kafka_variables_become_client_properties() -> None:
    assert kafka_properties(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "broker-1:9093,broker-2:9093",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_KERBEROS_SERVICE_NAME": "kafka",
            "KAFKA_SSL_CA_LOCATION": "/ca.pem",
            "NOT_KAFKA_X": "y",
            "kafka_lower_case": "y",
        }
    ) == {
        "bootstrap.servers": "broker-1:9093,broker-2:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.kerberos.service.name": "kafka",
        "ssl.ca.location": "/ca.pem",
    }


@pytest.mark.parametrize("service", ["KAFKA", "KAFKA_BROKER", "KAFKA_CONTROLLER_0_EXTERNAL"])
def test_what_kubernetes_says_of_services_is_no_client_property(service: str) -> None:
    links = {
        f"{service}_SERVICE_HOST": "10.0.0.11",
        f"{service}_SERVICE_PORT": "9092",
        f"{service}_SERVICE_PORT_TCP_CLIENT": "9092",
        f"{service}_PORT": "tcp://10.0.0.11:9092",
        f"{service}_PORT_9092_TCP": "tcp://10.0.0.11:9092",
        f"{service}_PORT_9092_TCP_PROTO": "tcp",
        f"{service}_PORT_9092_TCP_PORT": "9092",
        f"{service}_PORT_9092_TCP_ADDR": "10.0.0.11",
    }
    assert kafka_properties(links) == {"bootstrap.servers": "localhost:9092"}


@given(st.integers(0, 10_000), st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]))
def test_spans(number: int, unit: tuple[str, int]) -> None:
    letter, seconds = unit
    assert span(f"{number}{letter}") == timedelta(seconds=number * seconds)
    assert span(f" {number}.5{letter} ") == timedelta(seconds=(number + 0.5) * seconds)
