"""Topics made by whoever may make topics; those that are there stay as they are."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource

from flows.local_kafka import LocalKafka, free_port
from flows.provision import main
from tests.flows.running import QUIET

DAY = 86_400_000


@pytest.fixture
def names(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five topics of this test's own, which the environment names."""
    purposes = ("transactions", "labels", "scored", "alerts", "rejected")
    made = [f"{purpose}-{uuid.uuid4().hex[:8]}" for purpose in purposes]
    for purpose, name in zip(purposes, made, strict=True):
        monkeypatch.setenv(f"VIGIE_{purpose.upper()}_TOPIC", name)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    monkeypatch.setenv("VIGIE_CREATE_TOPICS", "false")  # which is about the flow
    return made


def test_topics_are_made_as_asked_for_and_a_second_time_nothing_changes(
    kafka: LocalKafka, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--partitions=3", "--replication-factor=1", "--retention=7d"]
    assert main(options) == 0
    assert main(options) == 0
    assert capsys.readouterr().out == 2 * f"topics {', '.join(names)} are as they should be\n"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    listed = admin.list_topics(timeout=10).topics
    assert {len(listed[name].partitions) for name in names} == {3}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    configs = {resource.name: answer.result(10) for resource, answer in admin.describe_configs(resources).items()}
    assert {configs[name]["retention.ms"].value for name in names} == {str(7 * DAY)}
    rejected, scored = configs[names[4]], configs[names[2]]
    assert int(rejected["max.message.bytes"].value) == 2 * int(scored["max.message.bytes"].value)


def test_a_topic_that_differs_is_named_and_left_as_it_is(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--partitions=1", "--retention=1d"]) == 0
    for _ in range(2):
        assert main(["--partitions=2", "--replication-factor=3", "--retention=2d"]) == 1
        said = capsys.readouterr().err
        for name in names:
            assert f"topic {name} has partitions 1, not 2; change it by hand" in said
            assert f"topic {name} has retention.ms {DAY}, not {2 * DAY}" in said
            assert f"topic {name} has replicas 1, not 3" in said


def test_more_replicas_than_brokers_are_refused_with_kafkas_words(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--replication-factor=3"]) == 2
    assert f"vigie: topic {names[0]} cannot be created: " in capsys.readouterr().err


def test_an_absent_kafka_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"localhost:{free_port()}")
    monkeypatch.setenv("VIGIE_KAFKA_TIMEOUT", "1s")
    assert main([]) == 2
    assert "vigie: no Kafka at localhost" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--partitions=0", "--replication-factor=x", "--retention=week"])
def test_options_that_cannot_be_used_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([option])
    assert f"argument {option.partition('=')[0]}: '{option.partition('=')[2]}' is not a" in capsys.readouterr().err
