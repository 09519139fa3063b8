"""TLS, logins and client certificates: the flow and its tools over them, and what is said where they do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from features.errors import KafkaFailure
from features.history import INSTANT
from flows import topics
from flows.kafka_install import available
from flows.local_kafka import LocalKafka, free_port
from flows.redrive import Choice, redrive
from flows.replay import Pace, publish
from flows.settings import Settings
from tests.flows import bundles
from tests.flows.running import QUIET, ROOT, launch

N = 200


class Secure(NamedTuple):
    """A broker that wants a login over TLS at one port, and a client's certificate at another."""

    kafka: LocalKafka
    login: dict[str, str]
    certificate: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    if reason := available():
        pytest.fail(f"this test needs a real Kafka, which cannot run here: {reason}")
    folder = tmp_path_factory.mktemp("secure")
    make_certificates(folder)
    ports = free_port(), free_port()
    properties = {
        "listeners": f"SASL_SSL://127.0.0.1:{ports[0]},SSL://127.0.0.1:{ports[1]}",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.both"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "authority.pem"),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    authority = {"KAFKA_SSL_CA_LOCATION": str(folder / "authority.pem"), "VIGIE_KAFKA_TIMEOUT": "10s"}
    login = authority | {
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{ports[0]}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISMS": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": "vigie",
        "KAFKA_SASL_PASSWORD": "open sesame",
    }
    certificate = authority | {
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{ports[1]}",
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CERTIFICATE_LOCATION": str(folder / "client.pem"),
        "KAFKA_SSL_KEY_LOCATION": str(folder / "client.key"),
    }
    with LocalKafka(free_port(), folder / "kafka", properties=properties) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
        word = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        vigie = UserScramCredentialUpsertion("vigie", word, login["KAFKA_SASL_PASSWORD"].encode())
        admin.alter_user_scram_credentials([vigie])["vigie"].result(timeout=30)
        yield Secure(kafka, login, certificate, folder)


def make_certificates(folder: Path) -> None:
    """An authority and another one, and what the first has signed: for the broker, and for a client."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    new = ("-newkey", "rsa:2048", "-nodes")
    for name in ("authority", "stranger"):
        openssl(
            "req", "-x509", *new, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"
        )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("broker", "client"):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signer = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", f"{name}.csr", *signer, "-days", "2", "-extfile", "names", "-out", f"{name}.pem")
    (folder / "broker.both").write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())


def names() -> dict[str, str]:
    """Topics and a group of a test's own."""
    mark = uuid.uuid4().hex[:8]
    purposes = ("transactions", "labels", "scored", "alerts", "rejected")
    return {f"VIGIE_{name.upper()}_TOPIC": f"{name}-{mark}" for name in purposes} | {"KAFKA_GROUP_ID": f"flow-{mark}"}


def history() -> pl.DataFrame:
    instants = [1_522_540_800_000_000 + n * 60_000_000 for n in range(N)]
    missing = pl.Series([None] * N, dtype=pl.String)
    return pl.DataFrame(
        {
            "transaction_id": [f"t{n}" for n in range(N)],
            "account_id": [f"a{n % 7}" for n in range(N)],
            "merchant_id": [f"m{n % 5}" for n in range(N)],
            "amount": [1000 + 100 * n for n in range(N)],
            "timestamp": pl.Series(instants).cast(INSTANT),
            "transaction_type": missing,
            "location": missing,
            "device_id": missing,
            "is_fraud": [n % 50 == 0 for n in range(N)],
            "labelled_at": pl.Series([None] * N, dtype=INSTANT),
            "fraud_scenario": missing,
        }
    )


class Outlet:
    """What comes out of a topic, over the plain listener."""

    def __init__(self, secure: Secure, topic: str) -> None:
        self._topic = topic
        servers = {"bootstrap.servers": secure.kafka.bootstrap_servers, "group.id": "test", **QUIET}
        self._consumer = Consumer({**servers, "enable.partition.eof": True})

    def _partitions(self) -> list[TopicPartition]:
        found = self._consumer.list_topics(timeout=30).topics.get(self._topic)
        return [TopicPartition(self._topic, number, 0) for number in found.partitions] if found else []

    def records(self, n: int) -> list[bytes]:
        """All that there is, as soon as there are n."""
        found: list[bytes] = []
        give_up = time.monotonic() + 60
        while not (partitions := self._partitions()):  # until the flow has made the topic
            assert time.monotonic() < give_up, f"no {self._topic}"
            time.sleep(0.1)
        self._consumer.assign(partitions)
        ended: set[int | None] = set()
        while len(found) < n or len(ended) < len(partitions):
            assert time.monotonic() < give_up, f"{len(found)} of {n} in {self._topic}"
            if (message := self._consumer.poll(0.1)) is None:
                continue
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF
                ended.add(message.partition())
                continue
            ended.discard(message.partition())
            found.append(message.value() or b"")
        self._consumer.close()
        return found


@pytest.mark.parametrize("way", ["login", "certificate"])
def test_the_whole_path_over_tls(secure: Secure, tmp_path: Path, way: str) -> None:
    environment: dict[str, str] = {
        **(secure.login if way == "login" else secure.certificate),
        **names(),
        "VIGIE_MODEL": str(bundles.make(tmp_path / "models")),
        "VIGIE_LOG_DIRECTORY": str(tmp_path / "logs"),
        "VIGIE_TOPIC_PARTITIONS": "2",
        "BYTEWAX_RECOVERY_DIRECTORY": str(tmp_path / "recovery"),
        "BYTEWAX_SNAPSHOT_INTERVAL": "1",
        "BYTEWAX_RECOVERY_BACKUP_INTERVAL": "0",
    }
    settings = Settings.from_environment(environment)
    with (tmp_path / "console").open("wb") as console:
        flow = launch(environment, console.fileno())
        try:
            assert publish(history()[:120], settings, Pace(), None, progress_bar=False) == (120, 0)
            producer = Producer(dict(settings.kafka))
            producer.produce(settings.transactions_topic, b"garbage", b"k")
            assert producer.flush(30) == 0
            Outlet(secure, settings.scored_topic).records(120)
            Outlet(secure, settings.rejected_topic).records(1)
            flow.terminate()
            assert flow.wait(30) == 0, (tmp_path / "console").read_text()
            flow = launch(environment, console.fileno())
            publish(history()[120:], settings, Pace(), None, progress_bar=False)
            assert redrive(settings, Choice()).sent == Counter(not_json=1)
            scored = Outlet(secure, settings.scored_topic).records(N)
            assert Outlet(secure, settings.rejected_topic).records(2) == [b"garbage"] * 2
            flow.terminate()
            assert flow.wait(30) == 0, (tmp_path / "console").read_text()
        finally:
            flow.kill()
            flow.wait()
    assert len(scored) == N


REFUSED = [
    ({"KAFKA_SASL_PASSWORD": "wrong"}, "refuses the login", "KAFKA_SASL_PASSWORD"),
    ({"KAFKA_SASL_USERNAME": "nobody"}, "refuses the login", "KAFKA_SASL_USERNAME"),
    ({"KAFKA_SASL_MECHANISMS": "PLAIN"}, "refuses the login", "KAFKA_SASL_MECHANISMS"),
    ({"KAFKA_SSL_CA_LOCATION": "stranger.pem"}, "gives no TLS connection", "KAFKA_SSL_CA_LOCATION"),
    ({"KAFKA_SSL_CA_LOCATION": ""}, "certificate verify failed", "KAFKA_SSL_CA_LOCATION"),
    ({"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, "hangs up", "KAFKA_SECURITY_PROTOCOL"),
    ({"KAFKA_SECURITY_PROTOCOL": ""}, "hangs up", "KAFKA_SECURITY_PROTOCOL"),
]


@pytest.mark.parametrize(("changes", "said", "remedy"), REFUSED)
def test_what_does_not_fit_is_told_apart(secure: Secure, changes: dict[str, str], said: str, remedy: str) -> None:
    if changes.get("KAFKA_SSL_CA_LOCATION"):
        changes = {"KAFKA_SSL_CA_LOCATION": str(secure.folder / changes["KAFKA_SSL_CA_LOCATION"])}
    refused(secure.login | changes, said, remedy)


def test_a_missing_client_certificate_is_named(secure: Secure) -> None:
    without = {
        name: value for name, value in secure.certificate.items() if "CERTIFICATE" not in name and "KEY" not in name
    }
    refused(without, "gives no TLS connection", "KAFKA_SSL_CERTIFICATE_LOCATION")


def test_tls_where_there_is_none_is_named(secure: Secure) -> None:
    plain = {"KAFKA_BOOTSTRAP_SERVERS": secure.kafka.bootstrap_servers}
    refused(secure.login | plain, "gives no TLS connection", "KAFKA_SECURITY_PROTOCOL")


def refused(environment: dict[str, str], said: str, remedy: str) -> None:
    """Soon, in one line, with the place and what to check."""
    began = time.monotonic()
    settings = Settings.from_environment(environment | {"VIGIE_KAFKA_TIMEOUT": "2s"})
    with pytest.raises(KafkaFailure, match=said) as raised:
        topics.partitions(settings, ["any"])
    assert time.monotonic() - began < 5
    assert remedy in str(raised.value)
    assert settings.bootstrap in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_flow_ends_with_that_line(secure: Secure, tmp_path: Path) -> None:
    environment = secure.login | names() | {"KAFKA_SASL_PASSWORD": "wrong", "VIGIE_LOG_DIRECTORY": str(tmp_path)}
    environment["VIGIE_MODEL"] = str(bundles.make(tmp_path / "models"))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "bytewax.run", "flows.score"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert time.monotonic() - began < 20
    assert "vigie: Kafka at " in done.stderr
    assert "refuses the login; check KAFKA_SASL_MECHANISMS" in done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong" not in done.stderr
