"""A histogram that takes many values at once, and counts them when it has thousands or is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

WAITING: Final = 4096  # values that are counted together, or when the page is asked for


class Histogram(Collector):
    """Counts values, none of which is below 0; ``bounds``: of the buckets, ascending, each with its bound."""

    def __init__(
        self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.array(bounds, np.float64)
        self._labels = [*map(str, map(float, bounds)), "+Inf"]
        self._counts = np.zeros(len(self._labels), np.int64)
        self._sum = 0.0
        self._waiting: list[float] = []
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, values: Sequence[float]) -> None:
        """Takes the values; one below 0, as where clocks differ, is taken as 0."""
        with self._lock:
            self._waiting += values
            if len(self._waiting) >= WAITING:
                self._count()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The page's part."""
        with self._lock:
            self._count()
            counts, total = np.cumsum(self._counts).tolist(), self._sum
        buckets = list(zip(self._labels, counts, strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)

    def _count(self) -> None:
        values = np.maximum(self._waiting, 0.0)
        self._waiting = []
        self._sum += float(values.sum())
        self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
