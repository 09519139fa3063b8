"""Vigie from end to end on one machine: a broker, a simulated history, a model, the flow, live traffic, its alerts.

    python -m flows.demo [--seconds 25] [--rate 400]

The bank is small and its time runs fast: some days pass in the seconds of the live part. Transactions keep the times at
which they happen in that bank; latencies are of this machine's clock.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from features.definitions import FEATURES, reach
from features.errors import InvalidSetting, KafkaFailure, VigieError
from features.history import load
from flows import topics
from flows.alerts import AlertWatch, Outcome
from flows.kafka_install import available
from flows.local_kafka import ENDING_SIGNALS, LocalKafka, free_port
from flows.mock_kafka import MockKafka
from flows.replay import History, Pace, during, frauds, publish
from flows.settings import Settings

PLACE: Final = Path(".cache/demo")
ACCOUNTS: Final = 1_000
DAYS: Final = 110
A_DAY: Final = 2 * ACCOUNTS  # transactions of the simulated bank
ALERT_RATE: Final = 0.015  # about as many alerts as this bank, twice as troubled as the Handbook's, has frauds
WARM_UP_PATIENCE: Final = 60.0  # seconds without another scored transaction

console = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 only where everything sent was scored and frauds were found."""
    parser = argparse.ArgumentParser("python -m flows.demo", description="Everything, end to end.")
    parser.add_argument("--seconds", type=float, default=25, help="how long live traffic flows")
    parser.add_argument("--rate", type=float, default=400, help="live transactions a second")
    options = parser.parse_args(arguments)
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.default_int_handler)  # so that broker and flow end with the demo, whatever ends it
    try:
        return run(options.seconds, options.rate)
    except VigieError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run(seconds: float, rate: float) -> int:
    """The demo; returns the exit status."""
    live_days = max(1, round(seconds * rate / A_DAY))
    if not 0 < seconds * rate <= 20 * A_DAY:
        raise InvalidSetting(f"{seconds:g} s at {rate:g}/s is more than the demo's bank gives; ask for less")
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    with ExitStack() as stack:
        servers, environment = stack.enter_context(_broker())
        history_file = PLACE / "history.parquet"
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        begin, live_from = today - timedelta(days=DAYS), today - timedelta(days=live_days)
        with _step(f"Simulating {DAYS} days of a bank with {ACCOUNTS:,} accounts and four fraud bots"):
            _call(
                *("training.simulate", history_file, "--accounts", ACCOUNTS, "--days", DAYS),
                *("--start", f"{begin:%Y-%m-%d}", "--intensity", 2),
            )
        with _step(f"Training on what was known {live_days} days before its end"):
            training = ["training.train", history_file, "--models", PLACE / "models", "--alert-rate", ALERT_RATE]
            when = ["--as-of", f"{live_from:%Y-%m-%d}", "--test-days", live_days]
            _call(*training, *when, "--keep-compromised", "--no-tracking")
        environment |= {"VIGIE_MODEL": str(PLACE / "models" / "current"), "VIGIE_LOG_DIRECTORY": str(PLACE / "logs")}
        settings = Settings.from_environment({**os.environ, **environment})
        history = load(history_file)
        warm = during(history, live_from - reach(FEATURES), live_from)
        live = during(history, live_from).head(round(seconds * rate))
        flow = stack.enter_context(_flow(environment))
        with _step(f"Filling the flow's windows with the last {len(warm):,} transactions before that"):
            publish(warm, settings, Pace(), timedelta(days=7))
            _wait_for_scored(settings, len(warm), flow)
        console.print(f"[bold]Live:[/] {len(live):,} transactions, {rate:g} a second, to {servers}")
        outcome = _live(live, settings, rate, flow)
    outcome.show(console)
    return 0 if outcome.complete() else 1


def _live(live: History, settings: Settings, rate: float, flow: subprocess.Popen[bytes]) -> Outcome:
    sent_at: dict[str, float] = {}
    failures: list[VigieError] = []
    watch = AlertWatch(settings, len(live), frauds(live), sent_at)

    def send() -> None:
        try:
            publish(live, settings, Pace(rate=rate), timedelta(days=7), sent_at, progress_bar=False)
        except VigieError as error:
            failures.append(error)

    sender = threading.Thread(target=send, daemon=True)
    with watch.view(console) as step:
        sender.start()
        deadline = time.monotonic() + len(live) / rate + 30
        while watch.scored < len(live) and time.monotonic() < deadline and not failures:
            step(0.1)
            _alive(flow)
        step(1.0)
    sender.join(5)
    if failures:
        raise failures[0]
    return watch.outcome()


@contextmanager
def _broker() -> Iterator[tuple[str, dict[str, str]]]:
    reason = available()
    if reason is None:
        with _step("Starting Apache Kafka"), ExitStack() as starting:
            kafka = starting.enter_context(LocalKafka(free_port(), PLACE / "kafka"))
            running = starting.pop_all()
        with running:
            yield kafka.bootstrap_servers, {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
        return
    console.print(f"[yellow]No real Kafka here ({reason}).\nInstead: librdkafka's mock cluster, in memory.[/]")
    with MockKafka(Settings.from_environment(os.environ).topics) as mock:
        yield (
            mock.bootstrap_servers,
            {"KAFKA_BOOTSTRAP_SERVERS": mock.bootstrap_servers, "VIGIE_CREATE_TOPICS": "false"},
        )


@contextmanager
def _flow(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The flow as a process of its own; what it says goes to a file."""
    said = PLACE / "flow.txt"
    with said.open("wb") as file:
        command = (sys.executable, "-m", "bytewax.run", "flows.score")
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _alive(flow: subprocess.Popen[bytes]) -> None:
    if flow.poll() is not None:
        tail = "\n".join((PLACE / "flow.txt").read_text(errors="replace").splitlines()[-10:])
        raise KafkaFailure(f"the flow ended with status {flow.returncode}; it said last:\n{tail}")


def _wait_for_scored(settings: Settings, count: int, flow: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + WARM_UP_PATIENCE
    consumer = Consumer({**settings.kafka, "group.id": "vigie-demo"})
    numbers = range(topics.partitions(settings, [settings.scored_topic])[settings.scored_topic])
    consumer.assign([TopicPartition(settings.scored_topic, number, 0) for number in numbers])
    scored = 0
    while scored < count:
        _alive(flow)
        if time.monotonic() > give_up:
            raise KafkaFailure(
                f"{scored:,} of {count:,} transactions were scored, and none in the last {WARM_UP_PATIENCE:g} s"
            )
        if new := sum(message.error() is None for message in consumer.consume(10_000, 0.25)):
            scored += new
            give_up = time.monotonic() + WARM_UP_PATIENCE
    consumer.close()


def _call(*words: object) -> None:
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InvalidSetting(f"{' '.join(command)} ended with status {done.returncode}; see what it said above")
    console.print(done.stdout.rstrip(), style="dim", highlight=False, markup=False)


@contextmanager
def _step(text: str) -> Iterator[None]:
    began = time.monotonic()
    console.print(f"[bold]{text} ...[/]")
    yield
    console.print(f"  [green]done[/] in {time.monotonic() - began:.1f} s", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
