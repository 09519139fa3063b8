"""The flow as its users run it: a process of its own on topics of its own, stopped, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

from tests.flows import bundles, settled
from tests.flows.traffic import Sent

ROOT: Final = Path(__file__).parents[2]
PARTITIONS: Final = 3
PURPOSES: Final = ("transactions", "labels", "scored", "alerts", "rejected")
QUIET: Final = {"log_level": 0, "reconnect.backoff.max.ms": 200}
# Or else a retry, as in the first moments of a topic, changes the order; idempotence would too, but begins with a wait.
IN_ORDER: Final = {"max.in.flight.requests.per.connection": 1}
# About a thousand records a second, so that a flow can be met in the middle of its work.
SLOWLY: Final = {
    "KAFKA_MAX_PARTITION_FETCH_BYTES": "16000",
    "KAFKA_QUEUED_MIN_MESSAGES": "1",
    "KAFKA_FETCH_QUEUE_BACKOFF_MS": "100",
}
# The same for one process (see launch), whose other consumers stay quick: those that read back what was written.
SLOW_READER: Final = (
    "import time, flows.source as r; r.BATCH = 100; next_batch = r.Reader.next_batch; "
    "r.Reader.next_batch = lambda self: (time.sleep(0.1), next_batch(self))[1]"
)
# A fetch gives a little of each partition, and not one of them to its end first: a flow that reads in step lets nothing
# go until it has some of each, for which a slow reader would need seconds.
SMALL_FETCHES: Final = {"KAFKA_MAX_PARTITION_FETCH_BYTES": SLOWLY["KAFKA_MAX_PARTITION_FETCH_BYTES"]}
SMALL_BATCHES: Final = {"batch.num.messages": 50}  # a fetch never gives less than one


class Received(NamedTuple):
    """A message that came out."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    partition: int
    offset: int

    @property
    def json(self) -> dict[str, Any]:
        """The value, decoded."""
        assert self.value is not None
        record = json.loads(self.value)
        assert isinstance(record, dict)
        return record


class Inbox:
    """All that is committed in a topic."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "test",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
                **QUIET,
            }
        )
        metadata = self._consumer.list_topics(topic, timeout=30).topics[topic]
        self._partitions = [TopicPartition(topic, number, 0) for number in metadata.partitions]
        self._consumer.assign(self._partitions)
        self.received: list[Received] = []

    def read(self, seconds: float) -> None:
        """Takes in what is there, or what comes within that time."""
        for message in self._consumer.consume(10_000, seconds):
            if message.error() is None:
                self.received.append(received(message))

    def read_to_end(self) -> list[Received]:
        """All records, from the first on; offsets do not tell how many there are, since commits leave marks."""
        settled.commits(self._bootstrap, self._topic)
        self.received = []
        self._consumer.assign(self._partitions)
        at_end: set[int | None] = set()
        give_up = time.monotonic() + 60
        while len(at_end) < len(self._partitions):
            assert time.monotonic() < give_up
            message = self._consumer.poll(0.1)
            if message is None:
                continue
            error = message.error()
            if error is None:
                self.received.append(received(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end.add(message.partition())
        return self.received

    def close(self) -> None:
        """Leaves Kafka."""
        self._consumer.close()


def received(message: Message) -> Received:
    """A message as the tests look at it."""
    headers = {str(header[0]): text(header[1]) for header in message.headers() or []}
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return Received(message.key(), message.value(), headers, partition, offset)


def text(value: str | bytes | None) -> str:
    """A header's value."""
    assert isinstance(value, bytes)
    return value.decode()


class Flow:
    """Five topics, a model, logs and recovery state in a folder, and the process that works with them."""

    def __init__(self, bootstrap: str, folder: Path, settings: Mapping[str, str]) -> None:
        mark = uuid.uuid4().hex[:8]
        self.bootstrap = bootstrap
        self.folder = folder
        self.topics = {purpose: f"{purpose}-{mark}" for purpose in PURPOSES}
        self.log_file = folder / "logs" / "vigie-0.log"
        self.console = folder / "console"
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "VIGIE_MODEL": str(bundles.make(folder / "models")),
            "VIGIE_LOG_DIRECTORY": str(folder / "logs"),
            "VIGIE_SCORED_FEATURES": "true",
            **{f"VIGIE_{purpose.upper()}_TOPIC": topic for purpose, topic in self.topics.items()},
            **settings,
        }
        settled.create(bootstrap, *self.topics.values(), partitions=PARTITIONS)
        self._inboxes = {purpose: Inbox(bootstrap, topic) for purpose, topic in self.topics.items()}
        self.changes = ""  # see launch
        self.processes = 1  # see launch
        self._process: subprocess.Popen[bytes] | None = None

    def with_recovery(self) -> None:
        """From now on every start resumes from what the last run saved, every second."""
        directory = self.folder / "recovery"
        directory.mkdir()
        subprocess.run([sys.executable, "-m", "bytewax.recovery", str(directory), "4"], check=True, timeout=60)
        self.environment |= {
            "BYTEWAX_RECOVERY_DIRECTORY": str(directory),
            "BYTEWAX_SNAPSHOT_INTERVAL": "1",
            "BYTEWAX_RECOVERY_BACKUP_INTERVAL": "0",
        }

    def start(self) -> None:
        """Starts the process; what it prints goes to ``console``."""
        assert self._process is None
        with self.console.open("ab") as console:
            self._process = launch(self.environment, console.fileno(), self.changes, self.processes)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks the process to end, as an operator would; its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.ended()

    def workers(self) -> list[int]:
        """The process ids of the flow's processes, where there are several."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def kill(self) -> None:
        """Ends the process as a crash would, and those that it has started."""
        assert self._process is not None
        workers = self.workers() if self._process.poll() is None else []
        for pid in [self._process.pid, *workers]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ended()

    def ended(self) -> int:
        """Waits for the process to end; its exit status."""
        assert self._process is not None
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Leaves nothing behind but files."""
        if self._process is not None:
            self.kill()
        for inbox in self._inboxes.values():
            inbox.close()

    def produce(self, purpose: str, messages: Iterable[Sent], **properties: object) -> None:
        """Sends messages as any producer would, and returns when Kafka has them all."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "linger.ms": 20,
                **IN_ORDER,
                **QUIET,
                **properties,
            }
        )
        for key, value in messages:
            producer.produce(self.topics[purpose], value, key)
            producer.poll(0)
        assert producer.flush(30) == 0
        producer.close()

    def read_all(self, purpose: str, n: int, timeout: float = 60.0) -> list[Received]:
        """The topic's records, as soon as there are n of them or more; fails where the flow ends before that."""
        inbox = self._inboxes[purpose]
        give_up = time.monotonic() + timeout
        while len(inbox.received) < n:
            self.check_alive()
            assert time.monotonic() < give_up, f"{len(inbox.received)} of {n} in {purpose}\n{self.console_text()}"
            inbox.read(0.1)
        return inbox.received

    def read_rest(self, purpose: str) -> list[Received]:
        """The topic's records, all of them; to be called when the flow has ended."""
        assert self._process is None
        return self._inboxes[purpose].read_to_end()

    def check_alive(self) -> None:
        """Fails, with what it printed, where the flow has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"the flow ended with {self._process.returncode}\n{self.console_text()}")

    def burden(self) -> tuple[int, str]:
        """The process's resident memory in MB, and the CPU time that it has used, as ``ps`` writes it."""
        assert self._process is not None
        asked = ["ps", "-o", "rss=,time=", "-p", str(self._process.pid)]
        resident, cpu = subprocess.run(asked, capture_output=True, check=True, text=True).stdout.split()
        return int(resident) // 1024, cpu

    def console_text(self) -> str:
        """What the flow has printed so far."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def await_saved_epoch(self) -> None:
        """Returns when the state of at least one epoch is durable."""
        give_up = time.monotonic() + 30
        while True:
            for part in (self.folder / "recovery").glob("part-*.sqlite3"):
                with closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as database:
                    (frontier,) = database.execute("SELECT max(worker_frontier) FROM fronts").fetchone()
                    if frontier is not None and frontier > 1:
                        return
            self.check_alive()
            assert time.monotonic() < give_up
            time.sleep(0.02)

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The lines of the log file with that message."""
        lines = map(json.loads, self.log_file.read_text().splitlines())
        return [line for line in lines if line["message"] == message]


@contextmanager
def running(bootstrap: str, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Flow]:
    """A flow that is gone when the block ends."""
    flow = Flow(bootstrap, folder, settings or {})
    try:
        yield flow
    finally:
        flow.close()


def launch(
    environment: dict[str, str], output: int, changes: str = "", processes: int = 1, options: Iterable[str] = ()
) -> subprocess.Popen[bytes]:
    """``python -m bytewax.run flows.score`` with these settings and no others, or ``python -m flows`` where several.

    ``changes``: Python that is run before, to make constants smaller than a test has time for.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "VIGIE_"))}
    command = ["-m", "bytewax.run", "flows.score"]
    if changes:
        start = "import runpy; runpy.run_module('bytewax.run', run_name='__main__', alter_sys=True)"
        command = ["-c", f"{changes}; {start}", "flows.score"]
    if processes > 1:
        command = ["-m", "flows", "-p", str(processes)]
    return subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=ROOT,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )


def limit_size(bootstrap: str, topic: str, largest: int) -> None:
    """From now on the topic takes no record of more bytes."""
    entry = ConfigEntry("max.message.bytes", str(largest), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    admin.incremental_alter_configs([resource])[resource].result(timeout=10)
    give_up = time.monotonic() + 30  # it is the controller that has answered; the broker hears of it later
    while admin.describe_configs([resource])[resource].result(timeout=10)["max.message.bytes"].value != str(largest):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    time.sleep(0.2)  # its logs do, right after what it tells
