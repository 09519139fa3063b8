"""What the flow says about itself, in numbers: on the page /metrics (``flows.health``) and in the log.

``docs/monitoring.md`` says what each one means. Counters and histograms are of this process since its start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from prometheus_client import REGISTRY, Counter, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from features.bundle import Manifest
from features.transaction import ERROR_CODES
from flows.histogram import Histogram

LOG_EVERY: Final = 30.0  # seconds
SCORES: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *(0.95, 0.98, 0.99, 1.0),
)
SECONDS: Final = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 3600.0, 86_400.0),
)

_log = logging.getLogger(__name__)


class Gauges(Collector):
    """A gauge whose values are read when the page is asked for; where there is nothing to read, it is not there."""

    def __init__(self, name: str, documentation: str, *labels: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._reads: dict[tuple[str, ...], Callable[[], float | None]] = {}
        registry.register(self)

    def read(self, read: Callable[[], float | None], *labels: str) -> None:
        """From now on the value is what ``read`` gives, in any thread; None where there is none yet."""
        assert len(labels) == len(self._labels)
        self._reads[labels] = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The page's part."""
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, read in list(self._reads.items()):
            if (value := read()) is not None:
                family.add_metric(labels, value)
        yield family


# They are a second series for each counter, which says when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the function alone has no types
READ: Final = Counter("vigie_read_total", "Messages read from Kafka", ["topic"])
SCORED: Final = Counter("vigie_scored_total", "Transactions scored")
ALERTS: Final = Counter("vigie_alerts_total", "Transactions scored that are alerts")
REJECTED: Final = Counter("vigie_rejected_total", "Messages rejected, by error code", ["code"])
for _code in ERROR_CODES:
    REJECTED.labels(_code)  # there from the start: what appears with its first count has no increase
DUPLICATES: Final = Counter("vigie_duplicates_total", "Transactions dropped because their id was seen before")
SCORE: Final = Histogram("vigie_score", "Scores", SCORES)
LATENCY: Final = Histogram(
    "vigie_latency_seconds", "From the Kafka timestamp of a transaction to its scored record, committed", SECONDS
)
WATERMARK_LAG: Final = Gauges(
    "vigie_watermark_lag_seconds", "From the event time up to which all partitions were taken in to now"
)
CONSUMER_LAG: Final = Gauges(
    "vigie_consumer_lag", "Messages of a partition that are still to be taken in", "topic", "partition"
)
EPOCH_AGE: Final = Gauges("vigie_epoch_age_seconds", "Since this process last heard that an epoch had closed")
STATE_ENTRIES: Final = Gauges("vigie_state_entries", "Accounts or merchants with windows in this process", "entity")
STATE_BYTES: Final = Gauges("vigie_state_bytes", "Memory of their windows", "entity")
MODEL: Final = Gauges("vigie_model_info", "The model that scores; always 1", "version", "fingerprint")
MODEL_CREATED: Final = Gauges("vigie_model_created_timestamp_seconds", "When the model was made, since 1970")
PROCESSES: Final = Gauges("vigie_processes", "How many processes share the work")
READY: Final = Gauges("vigie_ready", "1 where /ready says yes, else 0")


def show_model(manifest: Manifest) -> None:
    """From now on this is the model that scores."""
    created = datetime.fromisoformat(manifest.created_at).timestamp()
    MODEL.read(lambda: 1, manifest.version, manifest.fingerprint)
    MODEL_CREATED.read(lambda: created)


class Progress:
    """Logs the counters now and then; ask it often, it looks at the clock."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LOG_EVERY
        self._last: dict[str, int] = {}

    def tick(self, *, final: bool = False) -> None:
        """Writes one line where half a minute has passed and something has changed, or where it is the last one."""
        now = time.monotonic()
        if now < self._next and not final:
            return
        self._next = now + LOG_EVERY
        totals = {
            "read": _total(READ),
            "scored": _total(SCORED),
            "alerts": _total(ALERTS),
            "rejected": _total(REJECTED),
            "duplicates": _total(DUPLICATES),
        }
        if totals != self._last:
            self._last = totals
            _log.info("so far", extra=totals)


def _total(counter: Counter) -> int:
    return int(sum(s.value for family in counter.collect() for s in family.samples if s.name.endswith("_total")))
