"""A history, published to Kafka as if it happened: transactions keyed by account, labels when they became known.

    python -m flows.replay DATA [--speed 60 | --rate 2000] [--now] [--bots card_theft,account_takeover] ...

DATA is a history file (.parquet or .csv), as for training. Without --speed and --rate it goes as fast as it can.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from confluent_kafka import KafkaError, Message, Producer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from features import bots
from features.definitions import LABEL_DELAY
from features.errors import InvalidSetting, KafkaFailure, VigieError
from features.history import IDS, INSTANT, TEXTS, column_map, load
from features.transaction import microseconds, rfc3339
from flows import topics
from flows.settings import Settings, span

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

History = pl.DataFrame


class Pace(NamedTuple):
    """When to send an event: ``speed`` times as fast as it happened, or ``rate`` events a second, or at once.

    ``now``: timestamps are moved so that each event happens when it is sent.
    """

    speed: float | None = None
    rate: float | None = None
    now: bool = False


def during(history: History, begin: datetime, end: datetime | None = None) -> History:
    """The transactions from ``begin`` to before ``end``."""
    part = history.filter(pl.col("timestamp") >= begin)
    return part if end is None else part.filter(pl.col("timestamp") < end)


def frauds(history: History) -> dict[str, str]:
    """The ids of the frauds, and of what kind each is."""
    found = history.filter("is_fraud")
    return dict(zip(found["transaction_id"], found["fraud_scenario"].fill_null("fraud"), strict=True))


def with_bots(history: History, scenarios: Sequence[str], intensity: float, seed: int) -> History:
    """The history after the fraud bots; what they add has ids of its own, and their frauds' labels come late."""
    codes, texts = {}, {}
    for name in ("account_id", "merchant_id", *TEXTS):
        codes[name], texts[name] = bots.encode(history[name])
    traffic = bots.Traffic(
        account=codes["account_id"],
        merchant=codes["merchant_id"],
        amount=history["amount"].to_numpy(),
        timestamp=history["timestamp"].dt.epoch("us").to_numpy(),
        transaction_type=codes["transaction_type"],
        location=codes["location"],
        device=codes["device_id"],
        fraud=np.where(history["is_fraud"].to_numpy(), bots.UNNAMED, bots.HONEST).astype(np.int8),
        row=np.arange(len(history)),
    )
    types = texts["transaction_type"]
    chosen = bots.scaled(
        scenarios,
        len(texts["account_id"]),
        len(texts["merchant_id"]),
        intensity=intensity,
        online=types.index("online") if "online" in types else None,
    )
    after = bots.inject(traffic, chosen, np.random.default_rng(seed))
    # Ids that no earlier run of the bots can have given, or a replay of its output would repeat them.
    fresh = f"bot-{seed}-{len(history)}"
    ids = history["transaction_id"].to_list()
    named = {code: name for name, code in bots.CODES.items()}
    before = history.select("labelled_at", "fraud_scenario")[np.maximum(after.row, 0)]
    theirs = pl.Series([named.get(int(code)) for code in after.fraud], dtype=pl.String)
    return pl.DataFrame(
        {
            "transaction_id": [ids[row] if row >= 0 else f"{fresh}-{i}" for i, row in enumerate(after.row)],
            "account_id": _decoded(after.account, texts["account_id"], "A"),
            "merchant_id": _decoded(after.merchant, texts["merchant_id"], "M"),
            "amount": after.amount,
            "timestamp": pl.Series(after.timestamp).cast(INSTANT),
            "transaction_type": _decoded(after.transaction_type, texts["transaction_type"], "T"),
            "location": _decoded(after.location, texts["location"], "L"),
            "device_id": _decoded(after.device, texts["device_id"], "D"),
            "is_fraud": after.fraud != bots.HONEST,
            "labelled_at": before["labelled_at"].set(theirs.is_not_null(), None),
            "fraud_scenario": theirs.fill_null(before["fraud_scenario"]),
        }
    )


def publish(
    history: History,
    settings: Settings,
    pace: Pace,
    label_delay: timedelta | None,
    sent_at: dict[str, float] | None = None,
    *,
    progress_bar: bool = True,
) -> tuple[int, int]:
    """Sends the transactions and, unless ``label_delay`` is None, the labels of frauds that fall due before the end.

    ``sent_at`` gets the time at which each transaction was sent. Returns how many of both. Raises ``KafkaFailure``.
    """
    topics.partitions(settings, [settings.transactions_topic, settings.labels_topic])
    sender = Sender(settings)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(),
    )
    sent = {settings.transactions_topic: 0, settings.labels_topic: 0}
    with Progress(*columns, console=Console(stderr=True), disable=not progress_bar) as progress:
        task = progress.add_task("replaying", total=len(history))
        for due, topic, key, message in _schedule(history, settings, pace, label_delay):
            sender.wait(due)
            sender.send(topic, key, message)
            if sent_at is not None and topic == settings.transactions_topic:
                sent_at[str(message["transaction_id"])] = time.time()
            sent[topic] += 1
            if sent[topic] % 500 == 0:
                progress.update(task, completed=sent[settings.transactions_topic])
        sender.finish()
        progress.update(task, completed=sent[settings.transactions_topic])
    return sent[settings.transactions_topic], sent[settings.labels_topic]


class Sender:
    """Sends messages, and raises ``KafkaFailure`` soon after Kafka did not take one."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer(
            {
                "linger.ms": "2",
                "compression.type": "lz4",
                **settings.kafka,
                "enable.idempotence": "true",
                "logger": _log,
            }
        )
        self._failure: KafkaError | None = None

    def wait(self, due: float) -> None:
        """Returns when the monotonic clock shows ``due``."""
        while (left := due - time.monotonic()) > 0:
            self._poll(min(left, 0.1))

    def send(self, topic: str, key: str, message: dict[str, object]) -> None:
        """Hands the message to the producer; blocks while its queue is full."""
        value = _encode(message)
        while True:
            try:
                self._producer.produce(topic, value, key.encode(), on_delivery=self._delivered)
            except BufferError:
                self._poll(0.1)
            else:
                self._poll(0)
                return

    def finish(self) -> None:
        """Returns when all is delivered."""
        while self._producer.flush(1.0):
            self._poll(0)
        self._poll(0)

    def _poll(self, seconds: float) -> None:
        self._producer.poll(seconds)
        if self._failure is not None:
            raise KafkaFailure(f"Kafka did not take a message: {self._failure.str()}; the replay stopped")

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failure = error


def _schedule(
    history: History, settings: Settings, pace: Pace, label_delay: timedelta | None
) -> Iterator[tuple[float, str, str, dict[str, object]]]:
    """(when, by the monotonic clock; topic; key; message) of each event, in the order of time."""
    began, began_at = time.monotonic(), microseconds(datetime.now(UTC))
    instants = history["timestamp"].dt.epoch("us").to_numpy()
    if pace.rate:
        after = np.arange(len(instants)) / pace.rate
    else:
        after = (instants - instants[:1]) / 1e6 / pace.speed if pace.speed else np.zeros(len(instants))
    stamps = began_at + (after * 1e6).astype(np.int64) if pace.now else instants
    labels = deque(_labels(history, label_delay) if label_delay is not None else ())
    for nth, row in enumerate(history.iter_rows(named=True)):
        due = began + float(after[nth])
        while labels and labels[0][0] <= instants[nth]:
            known, of = labels.popleft()
            label: dict[str, object] = {name: history[name][of] for name in IDS}
            label |= {"timestamp": rfc3339(int(stamps[of])), "is_fraud": True}
            label["labelled_at"] = rfc3339(int(stamps[nth]) if pace.now else known)
            yield due, settings.labels_topic, str(label["merchant_id"]), label
        message = {name: row[name] for name in (*IDS, *TEXTS) if row[name] is not None}
        message |= {"amount": row["amount"] / 100, "timestamp": rfc3339(int(stamps[nth]))}
        yield due, settings.transactions_topic, str(row["account_id"]), message


def _labels(history: History, delay: timedelta) -> list[tuple[int, int]]:
    """(when known, row) of each fraud, sorted; known after the delay where the history does not say."""
    known = pl.coalesce("labelled_at", pl.col("timestamp") + delay).dt.epoch("us").alias("known")
    found = history.with_row_index("row").filter("is_fraud").select(known, "row")
    return found.sort("known", "row").rows()


def _decoded(codes: np.ndarray[tuple[int], np.dtype[np.int32]], texts: list[str], prefix: str) -> pl.Series:
    """The texts of codes; a code that a bot made up gets a text that says so."""
    return pl.Series(
        [None if c < 0 else texts[c] if c < len(texts) else f"{prefix}-bot-{c}" for c in codes.tolist()],
        dtype=pl.String,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _major_units() -> pl.Expr:
    return (pl.col("amount").cast(pl.Float64) / 100).round(2).alias("amount")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m flows.replay", description="Publish a history to Kafka.")
    parser.add_argument("data", type=Path, help="a history, .parquet or .csv")
    parser.add_argument("--columns", type=Path, help="a column map, such as features/columns/handbook.toml")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="one column of the map")
    parser.add_argument("--limit", type=int, help="only the first so many transactions")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--speed", type=float, help="so many times as fast as it happened; 1 is real time")
    speed.add_argument("--rate", type=float, help="so many transactions a second")
    parser.add_argument("--now", action="store_true", help="transactions happen when they are sent (--speed 1)")
    parser.add_argument("--bots", type=_names, default=(), help=f"add frauds of {','.join(bots.SCENARIOS)}")
    parser.add_argument("--intensity", type=float, default=1.0, help="multiplies how many victims the bots take a day")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--truth", type=Path, help="write what was sent, frauds marked, to this .parquet")
    parser.add_argument("--no-labels", action="store_true", help="send no labels")
    parser.add_argument("--label-delay", default=None, metavar="SPAN", help="where the history does not say (7d)")
    options = parser.parse_args(arguments)
    try:
        delay = span(options.label_delay) if options.label_delay else LABEL_DELAY
        for name in ("speed", "rate", "limit"):
            if (value := getattr(options, name)) is not None and value <= 0:
                raise InvalidSetting(f"--{name} is {value}; give more than 0")
        settings = Settings.from_environment(os.environ)
        columns = column_map(options.columns, options.column)
        history = load(options.data, columns, labelled=False).head(options.limit or sys.maxsize)
        if options.bots:
            history = with_bots(history, options.bots, options.intensity, options.seed)
        if options.truth:
            options.truth.parent.mkdir(parents=True, exist_ok=True)
            history.with_columns(_major_units()).write_parquet(options.truth)
        no_pace = not (options.speed or options.rate)
        pace = Pace(1.0 if options.now and no_pace else options.speed, options.rate, options.now)
        began = time.perf_counter()
        transactions, labels = publish(history, settings, pace, None if options.no_labels else delay)
    except (VigieError, ValueError, OSError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    took = time.perf_counter() - began
    print(
        f"sent {transactions:,} transactions to {settings.transactions_topic} and {labels:,} labels to "
        f"{settings.labels_topic} in {took:.1f} s ({transactions / max(took, 1e-9):,.0f} transactions/s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
