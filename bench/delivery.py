"""What the delivery guarantee costs: throughput, latency, and the time from a crash to the next score.

    python -m bench.delivery [--repeats 3] [--live 15] [--accounts 10000,100000]

Three ways to write, in turn on one Kafka, with snapshots each second: ``once`` (Vigie's: Kafka transactions, and what
an epoch that was cut short had written is read back), ``read-back`` (an idempotent producer without transactions, and
the same reading back: no fence against a process that comes back), and ``at-least-once`` (the producer alone).
Latency is from the moment at which a transaction was due to be sent to the moment at which a reader of committed data
has its score. After that, crashes of the chosen way with states of many accounts.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from features.transaction import rfc3339
from flows import start, tail, topics
from flows.invocation import Invocation
from flows.local_kafka import LONG_LIVED, LocalKafka, free_port
from flows.outbox import Outbox, Parcel
from flows.settings import Settings

WAYS: Final = ("once", "read-back", "at-least-once")
BEGIN: Final = 1_750_000_000_000_000  # event time, microseconds since 1970
STEP: Final = 200_000  # microseconds of event time between transactions
RATE: Final = 500  # live transactions a second
PAUSE: Final = 3.0  # seconds of live traffic that are not counted

console = Console()
_encode = msgspec.json.Encoder().encode


class Plain(Outbox):
    """An outbox without transactions: written at once, acknowledged when asked."""

    def __init__(self, settings: Settings, _place: Invocation, _processes: int) -> None:
        properties = {"linger.ms": "2", "compression.type": "lz4", **settings.kafka, "enable.idempotence": "true"}
        self._producer = Producer(properties)
        self._ends: dict[tuple[str, int], int] = {}
        self._refused, self._under_way = None, False
        self.limits = topics.largest_records(settings, settings.topics[2:])

    def put(self, parcels: Sequence[Parcel]) -> None:
        """Straight to the producer."""
        for topic, partition, records in parcels:
            self._produce(topic, partition, records, self._ends, asked=True)
        self._producer.poll(0)

    def settle(self) -> None:
        """As the epoch ends."""
        self._producer.flush()


def _nothing(_settings: Settings, _topic: str, _number: int, begin: int) -> tuple[int, frozenset[bytes]]:
    return begin, frozenset()


def run_flow(way: str, options: Sequence[str]) -> None:
    """The flow with another way to write, in this process."""
    if way != "once":
        setattr(start, "open_outbox", Plain)  # noqa: B010  # stands in for the function
    if way == "at-least-once":
        setattr(tail, "read", _nothing)  # noqa: B010
    sys.argv = ["bytewax.run", "flows.score", *options]
    runpy.run_module("bytewax.run", run_name="__main__", alter_sys=True)


class Bank:
    """Transactions without end, of so many accounts."""

    def __init__(self, settings: Settings, accounts: int) -> None:
        self._topic, self._accounts = settings.transactions_topic, accounts
        self._random = np.random.default_rng(7)
        self._producer = Producer({"linger.ms": "2", **settings.kafka, "enable.idempotence": "true"})
        self.sent = 0

    def send(self) -> None:
        """The next one: accounts take turns, so that all are there early."""
        account = f"a{self.sent * 7919 % self._accounts}"
        message = {
            "transaction_id": f"t{self.sent}",
            "account_id": account,
            "merchant_id": f"m{self._random.integers(max(1, self._accounts // 2))}",
            "amount": round(float(self._random.gamma(2.0, 30.0)) + 0.01, 2),
            "timestamp": rfc3339(BEGIN + self.sent * STEP),
        }
        self._producer.produce(self._topic, _encode(message), account)
        self._producer.poll(0)
        self.sent += 1

    def send_many(self, n: int) -> None:
        """As fast as it goes."""
        for nth in range(n):
            self.send()
            if nth % 5000 == 0:
                self._producer.flush()
        self._producer.flush()


class Scores:
    """A reader of committed scores, that notes when each comes."""

    def __init__(self, settings: Settings) -> None:
        topic = settings.scored_topic
        self._consumer = Consumer({**settings.kafka, "group.id": "bench", "fetch.wait.max.ms": "5"})
        self._consumer.assign([TopicPartition(topic, n, 0) for n in range(topics.partitions(settings, [topic])[topic])])
        self.came, self.last = dict[int, float](), 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(1000, 0.01):
                value = message.value()
                if message.error() is None and value is not None:
                    self.last = time.monotonic()
                    self.came.setdefault(int(msgspec.json.decode(value)["transaction_id"][1:]), self.last)
        self._consumer.close()

    def wait(self, n: int) -> float:
        """Returns when there are n; when the last one came."""
        while len(self.came) < n:
            time.sleep(0.01)
        return self.last

    def close(self) -> None:
        """Leaves Kafka."""
        self._over.set()
        self._thread.join()


class Flow:
    """A flow on topics of its own."""

    def __init__(self, bootstrap: str, folder: Path, way: str) -> None:
        name = folder.name
        self.environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "VIGIE_LOG_DIRECTORY": str(folder / "logs"),
            **{
                f"VIGIE_{t.upper()}_TOPIC": f"{t}-{name}"
                for t in ("transactions", "labels", "scored", "alerts", "rejected")
            },
        }
        self.settings = Settings.from_environment(self.environment)
        topics.partitions(self.settings, self.settings.topics)
        self.store = folder / "recovery"
        self._way, self._console = way, folder / "console"

    def start(self) -> None:
        """Starts it, or starts it again."""
        options = ["-r", str(self.store), "-s", "1", "-b", "0"]
        command = [sys.executable, "-m", "bench.delivery", "--child", self._way, *options]
        with self._console.open("ab") as said:
            self.process = subprocess.Popen(command, env=self.environment, stdout=said, stderr=said)

    def seconds(self) -> float:
        """CPU time, user and system, of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number: signal.Signals) -> None:
        """Stops or kills it."""
        self.process.send_signal(number)
        self.process.wait(60)


class Measured(NamedTuple):
    """One way, once: scored a second from a backlog; CPU microseconds of the flow each; latencies in milliseconds."""

    throughput: float
    cpu: float
    p50: float
    p99: float
    p999: float


@contextmanager
def flowing(bootstrap: str, way: str, accounts: int) -> Iterator[tuple[Flow, Bank, Scores]]:
    """A flow, what feeds it, and what reads it."""
    with TemporaryDirectory(prefix="delivery-") as folder:
        flow = Flow(bootstrap, Path(folder), way)
        bank, scores = Bank(flow.settings, accounts), Scores(flow.settings)
        try:
            yield flow, bank, scores
        finally:
            flow.end(signal.SIGKILL)
            scores.close()


def live(bank: Bank, seconds: float) -> dict[int, float]:
    """Sends on a fixed schedule; when each transaction was due."""
    due_at: dict[int, float] = {}
    began = time.monotonic()
    for nth in range(round(seconds * RATE)):
        due = began + nth / RATE
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        due_at[bank.sent] = due
        bank.send()
    return due_at


def measure(bootstrap: str, way: str, backlog: int, seconds: float) -> Measured:
    """Throughput from a backlog, then latency of live traffic."""
    with flowing(bootstrap, way, 10_000) as (flow, bank, scores):
        bank.send_many(backlog)
        flow.start()
        scores.wait(backlog // 10)
        began, before, cpu = time.monotonic(), len(scores.came), flow.seconds()
        scores.wait(backlog)
        took, used, counted = scores.last - began, flow.seconds() - cpu, backlog - before
        due = live(bank, PAUSE + seconds)
        scores.wait(bank.sent)
        late = sorted((scores.came[n] - at) * 1000 for n, at in list(due.items())[round(PAUSE * RATE) :])
    p50, p99, p999 = np.percentile(late, [50, 99, 99.9])
    return Measured(counted / took, used / counted * 1e6, float(p50), float(p99), float(p999))


def crash(bootstrap: str, accounts: int, crashes: int) -> tuple[list[float], float, float]:
    """Seconds from kill -9 to the next new score; the directory's MB; seconds that filling the states took."""
    with flowing(bootstrap, "once", accounts) as (flow, bank, scores):
        bank.send_many(accounts + accounts // 2)
        began = time.monotonic()
        flow.start()
        scores.wait(bank.sent)
        filled = time.monotonic() - began
        times = []
        for _ in range(crashes):
            live(bank, 4)
            flow.end(signal.SIGKILL)
            killed = time.monotonic()
            seen = len(scores.came)
            bank.send_many(100)
            flow.start()
            while len(scores.came) <= seen or scores.last < killed + 0.5:
                time.sleep(0.005)
            times.append(scores.last - killed)
            scores.wait(bank.sent)
        size = sum(file.stat().st_size for file in flow.store.rglob("*") if file.is_file()) / 1e6
    return times, size, filled


def main() -> int:
    """Prints the table."""
    if sys.argv[1:2] == ["--child"]:
        run_flow(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m bench.delivery", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=200_000, help="transactions that wait at the start")
    parser.add_argument("--live", type=float, default=15, help="seconds of live traffic")
    parser.add_argument("--accounts", default="10000,100000", help="with how many accounts to crash")
    parser.add_argument("--crashes", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    with TemporaryDirectory(prefix="kafka-") as folder, LocalKafka(free_port(), Path(folder), jvm=LONG_LIVED) as kafka:
        for _ in range(options.repeats):
            for way in WAYS:
                found[way].append(measure(kafka.bootstrap_servers, way, options.backlog, options.live))
                console.print(way, found[way][-1])
        table = Table(
            "way", "scored/s", "CPU us", "p50 ms", "p99 ms", "p99.9 ms", title=f"medians of {options.repeats}"
        )
        for way, runs in found.items():
            medians = [statistics.median(values) for values in zip(*runs, strict=True)]
            table.add_row(way, *(f"{value:,.1f}" for value in medians))
        console.print(table)
        for accounts in map(int, options.accounts.split(",")):
            times, size, filled = crash(kafka.bootstrap_servers, accounts, options.crashes)
            shown = ", ".join(f"{t:.1f}" for t in times)
            console.print(
                f"{accounts:,} accounts: kill -9 to a new score {shown} s; {size:,.0f} MB; filled in {filled:.0f} s"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
