"""A Kafka to work with: Apache Kafka as one JVM.

``LocalKafka`` is the real broker: KRaft combined mode, a process of its own, data that survives a crash. It listens on
the loopback interface only, without authentication, and runs on Linux and macOS.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self, TextIO

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from features.errors import KafkaFailure
from flows.kafka_install import CONFIG_DIR, KAFKA_VERSION, install, java, progress

DEFAULT_PORT: Final = 9092
DEFAULT_DATA_DIR: Final = Path(".cache/kafka")

HOST: Final = "127.0.0.1"
# Without the optimising compiler a short-lived broker starts in half the time and burns half the CPU.
SHORT_LIVED: Final = ("-Xmx512m", "-XX:TieredStopAtLevel=1")
# In the main as Kafka's own start script has it; after some minutes the same work takes two thirds of the CPU.
LONG_LIVED: Final = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")
# Any 16 bytes in base64 make a cluster id; a fixed one spares a start of the JVM.
_CLUSTER_ID: Final = "dmlnaWUtbG9jYWxrYWZrYQ"
ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class RunningBroker:
    """The process that runs on a data directory."""

    pid: int
    port: int


class LocalKafka:
    """One Apache Kafka broker on this machine; as a context manager, it runs for as long as the block.

    ``data_dir`` receives the topics (``kafka-data``), the broker's log (``kafka-logs``) and ``broker.json``, which says
    who runs there. A broker started on the directory of an earlier one has its topics, on any port. ``properties``
    replace those of ``flows/kafka/server.properties``, but ``listeners`` (TLS, SASL) stand beside the plain one.
    """

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        data_dir: Path = DEFAULT_DATA_DIR,
        *,
        properties: Mapping[str, str] | None = None,
        jvm: Sequence[str] = SHORT_LIVED,
        start_timeout: float = 120.0,
    ) -> None:
        self.port = port
        self.bootstrap_servers = f"{HOST}:{port}"
        self.data_dir = data_dir.resolve()
        self.log_file = self.data_dir / "kafka-logs" / "server.log"
        self._properties = dict(properties or {})
        self._jvm = jvm
        self._start_timeout = start_timeout
        self._lock_file = self.data_dir / "broker.json"
        self._console_file = self.log_file.with_name("console.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the broker and return when a client can use it and every partition has its leader.

        Raises ``KafkaFailure`` when Java or Maven is missing, a broker already runs on this data, the port is
        in use, or the broker does not come up within ``start_timeout`` seconds.
        """
        runtime, libs = java(), install()
        log_config = f"-Dlog4j2.configurationFile={(CONFIG_DIR / 'log4j2.properties').as_uri()}"
        jvm = (runtime, *self._jvm, log_config, "-cp", f"{libs}/*")
        process = None
        try:
            with self._lock() as lock, progress(f"Starting Apache Kafka {KAFKA_VERSION}"):
                _require_unused(self.port)
                self._write_properties()
                self.log_file.parent.mkdir(exist_ok=True)
                with self._console_file.open("wb") as console:
                    # A directory that was left half formatted has no meta.properties and is formatted again.
                    if not (self.data_dir / "kafka-data" / "meta.properties").exists():
                        self._format(jvm, console)
                    self._process = process = subprocess.Popen(
                        (*jvm, "kafka.Kafka", "server.properties"),
                        cwd=self.data_dir,
                        env=_jvm_environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=console,
                        stderr=console,
                        start_new_session=True,  # Ctrl-C is for this process, which then stops the broker
                        pass_fds=(lock.fileno(),),  # the lock is held for exactly as long as the broker lives
                    )
                json.dump({"pid": process.pid, "port": self.port}, lock)
                lock.flush()
                self._await_ready(process)
        except BaseException:  # Ctrl-C and SIGTERM too: an interrupted start leaves no broker behind
            if process is not None:
                process.kill()
                process.wait()
            raise

    def stop(self, timeout: float = 30.0) -> bool:
        """Stop the broker on this data, whoever started it; False when there was none.

        It gets SIGTERM, and SIGKILL if it still lives after ``timeout`` seconds.
        """
        return self._end(signal.SIGTERM, timeout) or self._end(signal.SIGKILL, timeout)

    def kill(self) -> None:
        """End the broker with SIGKILL, as a crash would; acknowledged messages outlive it."""
        self._end(signal.SIGKILL, timeout=30.0)

    def wait(self) -> None:
        """Block until the broker that this object started ends; ``KafkaFailure`` unless it was told to."""
        if self._process is not None and (code := self._process.wait()) not in (0, 128 + signal.SIGTERM):
            raise KafkaFailure(f"Kafka ended with exit code {code}. {self._tail()}")

    def running(self) -> RunningBroker | None:
        """The broker that runs on this data now, whoever started it."""
        if not self._lock_file.exists():
            return None
        with self._lock_file.open(encoding="utf-8") as lock:
            if _try_lock(lock, fcntl.LOCK_SH):
                return None
            text = lock.read()
        if not text:
            raise KafkaFailure(f"a Kafka is being started on {self.data_dir}; try again in a few seconds")
        return RunningBroker(**json.loads(text))

    def wipe(self) -> None:
        """Delete all topics and logs. Raises ``KafkaFailure`` while a broker runs on them."""
        with self._lock():
            for folder in ("kafka-data", "kafka-logs"):
                if (self.data_dir / folder).exists():
                    shutil.rmtree(self.data_dir / folder)

    @contextmanager
    def _lock(self) -> Iterator[TextIO]:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self._lock_file.open("a+", encoding="utf-8") as lock:
            if not _try_lock(lock, fcntl.LOCK_EX):
                broker = self.running()
                who = f"port {broker.port}, pid {broker.pid}" if broker else "ending just now"
                raise KafkaFailure(
                    f"a Kafka already runs on {self.data_dir} ({who}): use it, or stop it with "
                    f"`{stop_command(self.data_dir)}`"
                )
            lock.truncate(0)
            yield lock

    def _end(self, signal_number: signal.Signals, timeout: float) -> bool:
        broker = self.running()
        if broker is None:
            return False
        with suppress(ProcessLookupError):  # it ended since
            os.kill(broker.pid, signal_number)
        deadline = time.monotonic() + timeout
        while self.running() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        if self._process is not None:
            self._process.wait()
        return True

    def _write_properties(self) -> None:
        while (second := free_port()) == self.port:  # the broker does not listen on its own port yet
            pass
        controller = f"{HOST}:{second}"
        listeners = [f"PLAINTEXT://{self.bootstrap_servers}", f"CONTROLLER://{controller}"]
        if "listeners" in self._properties:
            listeners.append(self._properties["listeners"])
        # Voters of this static form are not stored with the data, so that ports can differ at each start.
        own = {"listeners": ",".join(listeners), "controller.quorum.voters": f"1@{controller}"}
        # In a properties file the last line of a name holds, and escapes are those of a JSON string.
        lines = [f"{name}={json.dumps(value)[1:-1]}\n" for name, value in (self._properties | own).items()]
        defaults = (CONFIG_DIR / "server.properties").read_text(encoding="ascii")
        (self.data_dir / "server.properties").write_text(defaults + "".join(lines), encoding="ascii")

    def _format(self, jvm: Sequence[str], console: BinaryIO) -> None:
        arguments = ("--ignore-formatted", "--cluster-id", _CLUSTER_ID, "--config", "server.properties")
        command = (*jvm, "kafka.tools.StorageTool", "format", *arguments)
        done = subprocess.run(
            command, cwd=self.data_dir, env=_jvm_environment(), stdout=console, stderr=console, check=False
        )
        if done.returncode:
            raise KafkaFailure(f"Kafka could not prepare {self.data_dir}. {self._tail()}")

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        # Connections are refused at first: try again soon, and do not log it.
        patient = {"log_level": 0, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, **patient})
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise KafkaFailure(f"Kafka failed to start (exit code {process.returncode}). {self._tail()}")
            with suppress(KafkaException):
                topics = client.list_topics(timeout=1).topics.items()
                parts = [TopicPartition(name, number) for name, topic in topics for number in topic.partitions]
                # After a crash the listing names the leaders of before it: only one that answers does lead.
                ends(client, parts, timeout=1)
                return
            time.sleep(0.05)
        raise KafkaFailure(f"Kafka did not answer within {self._start_timeout:g} seconds. {self._tail()}")

    def _tail(self) -> str:
        lines: list[str] = []
        for file in (self.log_file, self._console_file):
            if file.exists():
                text = file.read_text(encoding="utf-8", errors="replace")
                lines += [line for line in text.splitlines() if not line.startswith("\t")][-10:]
        return f"The last lines of its log ({self.log_file}):\n" + "\n".join(lines)


def ends(
    client: AdminClient,
    places: Sequence[TopicPartition],
    level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    *,
    timeout: float,
) -> list[int]:
    """The offsets at which partitions end for readers of that level, from their leaders' own mouths.

    Raises ``KafkaException`` where one does not answer within so many seconds, or does not lead.
    """
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # of the client
    told = client.list_offsets(dict.fromkeys(places, latest), isolation_level=level, request_timeout=timeout)
    return [told[place].result().offset for place in places]


def free_port() -> int:
    """A port of the loopback interface on which nothing listens now.

    It lies below the range from which systems take the ports of outgoing connections (32768 on Linux): a
    client that reconnects to a stopped broker at a port of that range can connect to itself, and holds it.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if _unused(port):
            return port


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        # As the broker does: connections in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _require_unused(port: int) -> None:
    if not _unused(port):
        raise KafkaFailure(
            f"port {port} is in use: stop the program that has it (`lsof -i :{port}` names it; a Kafka of "
            f"another directory ends with `python -m flows.broker stop --data DIR`), or choose another --port"
        )


def _try_lock(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _jvm_environment() -> dict[str, str]:
    # In the C locale a JVM cannot enter a directory whose name has other letters than ASCII.
    return os.environ | {"LC_ALL": "C.UTF-8"}


def stop_command(data_dir: Path) -> str:
    """What to type to stop the Kafka of this directory."""
    option = "" if data_dir == DEFAULT_DATA_DIR.resolve() else f" --data {data_dir}"
    return f"python -m flows.broker stop{option}"
