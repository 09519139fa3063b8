"""A live view of the alerts topic, held against what the fraud bots know."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.live import Live
from rich.table import Table

from features.errors import KafkaFailure
from flows import topics
from flows.records import AlertMessage
from flows.settings import Settings

SHOWN: Final = 12
WIDTHS: Final = {"account": 10, "amount": 9, "score": 5, "after": 7, "truth": 12}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of the live traffic; ``latencies``: seconds from sending a transaction to holding its alert."""

    sent: int
    scored: int
    alerts: int
    frauds: int
    found: int
    by_scenario: Mapping[str, tuple[int, int]]  # frauds, of which found
    latencies: list[float]

    def complete(self) -> bool:
        """Whether every transaction was scored, and some fraud was found."""
        return self.scored == self.sent and self.found > 0

    def show(self, console: Console) -> None:
        """Prints the summary."""
        table = Table(title="Summary", show_header=False, title_justify="left")
        table.add_row("transactions sent / scored", f"{self.sent:,} / {self.scored:,}")
        table.add_row("alerts", f"{self.alerts:,}")
        precision = f"{self.found / self.alerts:.1%}" if self.alerts else "no alert"
        table.add_row("precision: alerts that are frauds", precision)
        recall = f"{self.found / self.frauds:.1%} of {self.frauds:,}" if self.frauds else "no fraud"
        table.add_row("recall: frauds that were found", recall)
        for scenario, (frauds, found) in sorted(self.by_scenario.items()):
            table.add_row(f"  {scenario}", f"{found:,} of {frauds:,}")
        if self.latencies:
            p50, p99 = (float(np.percentile(self.latencies, p)) * 1000 for p in (50, 99))
            table.add_row("latency, produce to alert", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms")
        console.print(table)


class AlertWatch:
    """Reads ``alerts`` and ``scored`` from now on.

    ``to_send``: how many transactions are to come; ``truth``: the ids of the frauds among them, and of what kind they
    are; ``sent_at``: when a transaction was sent, filled as they are.
    """

    def __init__(
        self, settings: Settings, to_send: int, truth: Mapping[str, str], sent_at: Mapping[str, float]
    ) -> None:
        self._settings = settings
        self._sent = to_send
        self._truth = truth
        self._sent_at = sent_at
        self._scored: set[str] = set()
        self._alerts: dict[str, float] = {}  # latency in seconds
        self._recent: deque[tuple[AlertMessage, float]] = deque(maxlen=SHOWN)
        properties: dict[str, Any] = {
            **settings.kafka,
            "group.id": "vigie-demo",
            "enable.auto.commit": "false",
            "logger": _log,
        }
        self._consumer = Consumer(properties)
        assignment = []
        for topic, count in topics.partitions(settings, [settings.alerts_topic, settings.scored_topic]).items():
            for number in range(count):
                _, end = topics.edges(self._consumer, topic, number, settings)
                assignment.append(TopicPartition(topic, number, end))
        self._consumer.assign(assignment)

    @property
    def scored(self) -> int:
        """How many transactions were scored so far."""
        return len(self._scored)

    @contextmanager
    def view(self, console: Console) -> Iterator[Callable[[float], None]]:
        """A view, or without a terminal a line for each alert; the function yielded reads on for some seconds."""
        if not console.is_terminal:
            yield lambda seconds: self._read(seconds, console)
            return
        with Live(self._table(console), console=console, refresh_per_second=8) as view:

            def step(seconds: float) -> None:
                self._read(seconds, None)
                view.update(self._table(console))

            yield step

    def outcome(self) -> Outcome:
        """What has come so far."""
        self._consumer.close()
        by_scenario: dict[str, tuple[int, int]] = {}
        for identity, name in self._truth.items():
            frauds, found = by_scenario.get(name, (0, 0))
            by_scenario[name] = (frauds + 1, found + (identity in self._alerts))
        found = sum(identity in self._truth for identity in self._alerts)
        latencies = [latency for latency in self._alerts.values() if not math.isnan(latency)]
        return Outcome(self._sent, self.scored, len(self._alerts), len(self._truth), found, by_scenario, latencies)

    def _read(self, seconds: float, lines: Console | None) -> None:
        """Reads for so long, one by one, since a batch would keep the first ones waiting for the last."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is None:
                return
            if (error := message.error()) is not None:
                raise KafkaFailure(f"reading alerts failed: {error.str()}")
            if message.topic() == self._settings.scored_topic:
                self._scored.add(_decode_id(message.value() or b"").transaction_id)
                continue
            alert = _decode_alert(message.value() or b"")
            sent = self._sent_at.get(alert.transaction_id)
            latency = math.nan if sent is None else time.time() - sent
            self._alerts[alert.transaction_id] = latency
            self._recent.append((alert, latency))
            if lines is not None:
                lines.print("  ".join(self._cells(alert, latency)), highlight=False, markup=False, soft_wrap=True)

    def _table(self, console: Console) -> Table:
        title = f"{self.scored:,} of {self._sent:,} transactions scored, {len(self._alerts):,} alerts"
        table = Table(title=title, title_justify="left", expand=False)
        # What is left of the terminal after the other columns, the lines and the spaces between them.
        because = max(12, console.width - sum(WIDTHS.values()) - 3 * len(WIDTHS) - 4)
        for column, width in {**WIDTHS, "mostly because": because}.items():
            right = column in {"amount", "score", "after"}
            table.add_column(column, justify="right" if right else "left", no_wrap=True, width=width)
        rows = max(1, min(SHOWN, console.height - 6))
        for alert, latency in list(self._recent)[-rows:]:
            table.add_row(*self._cells(alert, latency))
        return table

    def _cells(self, alert: AlertMessage, latency: float) -> tuple[str, ...]:
        return (
            alert.account_id,
            f"{alert.amount:,.2f}",
            f"{alert.score:.3f}",
            "" if math.isnan(latency) else f"{latency * 1000:.0f} ms",
            self._truth.get(alert.transaction_id, "honest"),
            alert.reasons[0].text if alert.reasons else "",
        )


class _Scored(msgspec.Struct):
    transaction_id: str


_decode_id = msgspec.json.Decoder(_Scored).decode
_decode_alert = msgspec.json.Decoder(AlertMessage).decode
