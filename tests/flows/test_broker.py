"""The local Kafka: what it promises about data, its command line, its downloads, and its error messages."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from features.errors import KafkaFailure
from flows.kafka_install import KAFKA_VERSION, available, install
from flows.local_kafka import LocalKafka, free_port
from flows.mock_kafka import MockKafka
from tests.flows import settled

ROOT = Path(__file__).parents[2]
QUIET = {"log_level": 0, "reconnect.backoff.max.ms": 200}


def read_all(bootstrap_servers: str, topic: str, partitions: int) -> list[tuple[int, int, bytes]]:
    """Everything in ``topic`` as (partition, offset, value)."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test", **QUIET})
    try:
        starts, total = [], 0
        for partition in range(partitions):
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            starts.append(TopicPartition(topic, partition, first))
            total += end - first
        consumer.assign(starts)
        return [record(message) for message in consumer.consume(total, timeout=30)]
    finally:
        consumer.close()


def record(message: Message) -> tuple[int, int, bytes]:
    assert message.error() is None
    partition, offset, value = message.partition(), message.offset(), message.value()
    assert partition is not None
    assert offset is not None
    assert value is not None
    return partition, offset, value


def fake_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.broker", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker to crash, with a SASL listener beside the plain one."""
    secure_port = free_port()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    properties = {
        "listeners": f"SASL_PLAINTEXT://127.0.0.1:{secure_port}",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} required user_vigie="côte";',
    }
    with LocalKafka(free_port(), tmp_path_factory.mktemp("données"), properties=properties) as kafka:
        yield kafka


def test_acknowledged_messages_survive_kill_and_restart(own_kafka: LocalKafka) -> None:
    settled.create(own_kafka.bootstrap_servers, "ledger", partitions=3)
    acknowledged: list[tuple[int, int, bytes]] = []
    some_acknowledged = threading.Event()

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            acknowledged.append(record(message))
            if len(acknowledged) >= 2_000:
                some_acknowledged.set()

    def produce_until(stop: threading.Event) -> None:
        # One second: what the crash leaves unacknowledged fails, and does not arrive after the restart.
        producer = Producer({"bootstrap.servers": own_kafka.bootstrap_servers, "message.timeout.ms": 1_000, **QUIET})
        number = 0
        while not stop.wait(0.001):
            for _ in range(20):
                producer.produce("ledger", str(number), on_delivery=delivered)
                number += 1
            producer.poll(0)
        producer.flush(30)

    crashed = threading.Event()
    producing = threading.Thread(target=produce_until, args=(crashed,))
    producing.start()
    assert some_acknowledged.wait(30)
    own_kafka.kill()
    crashed.set()
    producing.join(30)
    assert own_kafka.running() is None

    own_kafka.start()
    found = read_all(own_kafka.bootstrap_servers, "ledger", 3)
    assert len(found) == len(set(found)) >= len(acknowledged) >= 2_000
    assert set(acknowledged) <= set(found)


def test_further_listener_asks_for_its_password(own_kafka: LocalKafka) -> None:
    listeners = (own_kafka.data_dir / "server.properties").read_text()
    secure_port = re.findall(r"SASL_PLAINTEXT://127.0.0.1:(\d+)", listeners)[0]

    errors: list[KafkaError] = []

    def connect(password: str) -> Producer:
        login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "sasl.username": "vigie"}
        servers = {"bootstrap.servers": f"127.0.0.1:{secure_port}", "sasl.password": password}
        return Producer({**servers, **login, "error_cb": errors.append, "log_level": 0})

    assert len(connect("côte").list_topics(timeout=30).brokers) == 1
    assert errors == []
    connect("wrong").poll(30)
    assert errors[0].code() == KafkaError._AUTHENTICATION


def test_a_second_broker_on_the_same_data_is_refused(own_kafka: LocalKafka) -> None:
    with pytest.raises(KafkaFailure, match=rf"already runs on .* \(port {own_kafka.port}, pid \d+\).* stop"):
        LocalKafka(free_port(), own_kafka.data_dir).start()
    with pytest.raises(KafkaFailure, match=r"already runs"):
        LocalKafka(own_kafka.port, own_kafka.data_dir).wipe()


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(KafkaFailure, match=f"port {port} is in use.*--port"):
            LocalKafka(port, tmp_path).start()


def test_failed_start_shows_the_log_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "kafka-data").mkdir()
    (tmp_path / "kafka-data" / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=2\n")
    kafka = LocalKafka(free_port(), tmp_path)
    with pytest.raises(KafkaFailure, match=r"(?s)failed to start \(exit code 1\).*server\.log.*node id"):
        kafka.start()
    assert kafka.running() is None


def test_refused_property_is_shown(tmp_path: Path) -> None:
    kafka = LocalKafka(free_port(), tmp_path, properties={"log.segment.bytes": "many"})
    with pytest.raises(KafkaFailure, match=r"(?s)could not prepare.*log\.segment\.bytes"):
        kafka.start()
    assert kafka.running() is None


def test_command_line_in_the_background(tmp_path: Path) -> None:
    port = str(free_port())
    assert cli("status", cwd=tmp_path).returncode == 3

    started = cli("start", "--port", port, cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    assert f"127.0.0.1:{port}" in started.stdout
    assert str(tmp_path / ".cache" / "kafka") in started.stdout
    settled.create(f"127.0.0.1:{port}", "kept", partitions=1)
    status = cli("status", cwd=tmp_path)
    assert (status.returncode, f"127.0.0.1:{port}" in status.stdout) == (0, True)
    again = cli("start", "--port", port, cwd=tmp_path)
    assert (again.returncode, "already runs" in again.stderr, "Traceback" in again.stderr) == (2, True, False)
    assert cli("stop", cwd=tmp_path).stdout == "Kafka is stopped\n"
    assert cli("stop", cwd=tmp_path).stdout == "no Kafka was running\n"

    other_port = free_port()
    with LocalKafka(other_port, tmp_path / ".cache" / "kafka") as kafka:
        client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
        assert "kept" in client.list_topics(timeout=10).topics


def test_run_ends_with_its_broker_and_fresh_forgets_topics(tmp_path: Path) -> None:
    data = tmp_path / "kafka-data"
    data.mkdir()
    (data / "leftover").touch()
    command = [sys.executable, "-m", "flows.broker", "run", "--fresh", "--port", str(free_port())]
    process = subprocess.Popen(
        [*command, "--data", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "listens on" in process.stdout.readline()
    kafka = LocalKafka(data_dir=tmp_path)
    assert kafka.running() is not None
    assert not (data / "leftover").exists()
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed.splitlines()[-1]) == (0, "Kafka is stopped")
    assert kafka.running() is None


def test_java_must_be_there_and_recent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(KafkaFailure, match=r"no java on PATH.*install Java 17"):
        LocalKafka(free_port(), tmp_path).start()
    for version, answer in {
        "1.8.0_392": "Java 8, too old",
        "11.0.2": "Java 11, too old",
        "16": "Java 16, too old",
    }.items():
        fake_program(tmp_path / "bin", "java", f"echo 'openjdk version \"{version}\" 2020-01-01' >&2")
        assert answer in str(available())
    fake_program(tmp_path / "bin", "java", "echo 'Unable to locate a Java Runtime.' >&2; exit 1")
    assert "Unable to locate a Java Runtime" in str(available())


def test_maven_must_be_there_only_for_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for version in ("17.0.15", "21-ea", "25"):
        fake_program(tmp_path / "bin", "java", f"echo 'openjdk version \"{version}\"' >&2")
        assert "no mvn on PATH" in str(available())
    with pytest.raises(KafkaFailure, match=r"no mvn on PATH.*install Maven"):
        LocalKafka(free_port(), tmp_path).start()


MAVEN_THAT_WORKS = """
for word in "$@"; do case "$word" in -DoutputDirectory=*) libs="${word#-DoutputDirectory=}";; esac; done
echo called >> "$CALLS"
/bin/sleep 0.3
/bin/mkdir -p "$libs" && echo jar > "$libs/kafka_2.13.jar"
"""


def test_download_happens_once_for_starts_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path / "bin", "mvn", MAVEN_THAT_WORKS)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    with ThreadPoolExecutor(4) as pool:
        folders = {future.result() for future in [pool.submit(install) for _ in range(4)]}
    (folder,) = folders
    assert folder.parent == tmp_path / "cache" / "vigie"
    assert re.fullmatch(rf"kafka-{re.escape(KAFKA_VERSION)}-[0-9a-f]{{8}}", folder.name)
    assert (folder / "kafka_2.13.jar").read_text() == "jar\n"
    assert (tmp_path / "calls").read_text() == "called\n"


def test_failed_download_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path / "bin", "mvn", "echo '[ERROR] Unknown host repo.example'; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(KafkaFailure, match=r"(?s)exit code 1.*Unknown host repo\.example"):
        install()
    assert [path.suffix for path in (tmp_path / "cache" / "vigie").iterdir()] == [".lock"]


def test_mock_kafka_carries_messages_and_ends() -> None:
    with MockKafka(["transactions"]) as mock:
        servers = mock.bootstrap_servers
        producer = Producer({"bootstrap.servers": servers, **QUIET})
        sent = [f"{number}".encode() for number in range(500)]
        for value in sent:
            producer.produce("transactions", value, key=value)
        assert producer.flush(10) == 0
        found = read_all(servers, "transactions", 4)
        assert sorted(value for _, _, value in found) == sorted(sent)
        producer.close()
    host, port = servers.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def test_shared_broker_gives_topics_of_a_tests_own(kafka: LocalKafka, topics: Callable[[str, int], str]) -> None:
    names = [topics("ledger", partitions) for partitions in (1, 3)]
    client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    known = client.list_topics(timeout=10).topics
    assert [len(known[name].partitions) for name in names] == [1, 3]
    with pytest.raises(KafkaException):
        read_all(kafka.bootstrap_servers, "never-created", 1)


def test_compose_file_has_the_same_version_and_values() -> None:
    broker = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["kafka"]
    assert broker["image"] == f"apache/kafka:{KAFKA_VERSION}"
    # The rule of the image: KAFKA_X_Y is the server property x.y.
    environment = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in broker["environment"].items()
    }
    text = (ROOT / "flows" / "kafka" / "server.properties").read_text().replace("\\\n", "")
    properties = dict(line.split("=", 1) for line in text.splitlines() if line and line[0] != "#")
    of_the_place = {"listener.security.protocol.map", "log.dirs"}
    differing = {name for name, value in properties.items() if environment.get(name) != value}
    assert differing == of_the_place
