"""The features of an entity's events, as arrays: a chunk of whole keys at a time, for ``features.batch``.

An aggregate is a function of ``Events`` and the feature, entered in ``MEASURES``; it gives float64 [rows], NaN where it
is missing. What several of them need is worked out once: a window's count and sums are differences of running totals at
two positions, and labels and distinct values are intervals in which something counts. The float64 operations are those
of ``features.measures``, in the same order, on the same exact integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.definitions import Aggregate, Feature
from features.timeline import Floats, Integers, Keys, Timeline

NEVER: Final = (1 << 63) - 1  # an instant that does not come
Bounds = tuple[int, int]
Codes = NDArray[np.uint32]


class Window(NamedTuple):
    """What a window holds, for each event: [rows] each. ``newest`` is a row, and means nothing where n is 0."""

    n: Integers
    total: Integers
    newest: Integers


class Values(NamedTuple):
    """The events that have a value of some field, sorted by key, value and time: [events with a value] each."""

    rows: Integers
    pairs: Keys


class Events:
    """Some keys' events, sorted by key, then time: [rows] each; instants in microseconds, amounts in minor units.

    ``fraud_known``: when an event became known as a fraud, ``NEVER`` for honest ones. ``codes``: for each field, a
    number for each value, 0 where it is missing. ``reach``: the farthest that any window looks back.
    A window's total must fit into 64 bits: nine million times the largest amount.
    """

    def __init__(
        self,
        keys: Keys,
        instants: Integers,
        amounts: Integers,
        *,
        reach: int,
        fraud_known: Integers | None = None,
        codes: Mapping[str, Codes] | None = None,
    ) -> None:
        self.keys = keys
        self.instants = instants
        self.amounts = amounts
        self.timeline = Timeline(keys, instants, reach)
        self.reach = reach
        self._fraud_known = fraud_known
        self._codes = codes or {}
        self._positions: dict[int, Integers] = {}
        self._windows: dict[Bounds, Window] = {}
        self._spreads: dict[Bounds, Floats] = {}
        self._values: dict[str, Values] = {}

    def position(self, offset: int) -> Integers:
        """``Timeline.passed``, kept."""
        if offset not in self._positions:
            self._positions[offset] = self.timeline.passed(offset)
        return self._positions[offset]

    def window(self, bounds: Bounds) -> Window:
        """The events with t - bounds[1] < ts <= t - bounds[0]."""
        if bounds not in self._windows:
            until, since = map(self.position, bounds)
            self._windows[bounds] = Window(until - since, self._totals[until] - self._totals[since], until - 1)
        return self._windows[bounds]

    def spread(self, bounds: Bounds) -> Floats:
        """The sample variance of the window's amounts times n * (n - 1), which is n * sum(x^2) - sum(x)^2.

        It is exact as an integer, and rounded once, to float64.
        """
        if bounds not in self._spreads:
            n, total, _ = self.window(bounds)
            # It is the sum of (x - y)^2 over all pairs, at most (n * range)^2 / 4. Where that fits into 64 bits the
            # result is exact, however often its parts have wrapped.
            most = int(n.max()) * self._range
            narrow = most * most // 4 <= NEVER
            self._spreads[bounds] = (
                (n * self._squared(bounds) - total * total).astype(np.float64) if narrow else self._wide_spread(bounds)
            )
        return self._spreads[bounds]

    def frauds(self, bounds: Bounds) -> Integers:
        """How many of the window's events are known as frauds by now."""
        if self._fraud_known is None:
            raise ValueError("these events were given without their labels")
        first, second = bounds
        rows = np.flatnonzero(self._fraud_known != NEVER)
        at, wait = self.timeline.at[rows], self._fraud_known[rows] - self.instants[rows]
        return self.timeline.active(at + np.clip(wait, first, second), at + second)

    def values(self, field: str) -> Values:
        """The events with a value of the field."""
        if field not in self._values:
            codes = self._codes[field]
            rows = np.flatnonzero(codes)
            pairs = self.keys[rows] << np.uint64(32) | codes[rows]
            order = np.argsort(pairs, kind="stable")
            self._values[field] = Values(rows[order], pairs[order])
        return self._values[field]

    @cached_property
    def _range(self) -> int:
        return int(self.amounts.max()) - int(self.amounts.min())

    @cached_property
    def _totals(self) -> Integers:
        return _running(self.amounts)

    @cached_property
    def _squares(self) -> Integers:
        return _running(self.amounts * self.amounts)

    @cached_property
    def _wide_squares(self) -> pl.Series:
        amounts = pl.Series(self.amounts).cast(pl.Int128)
        return pl.concat([pl.Series([0], dtype=pl.Int128), (amounts * amounts).cum_sum()])

    def _squared(self, bounds: Bounds) -> Integers:
        until, since = map(self.position, bounds)
        return self._squares[until] - self._squares[since]

    def _wide_spread(self, bounds: Bounds) -> Floats:
        n, total = (pl.Series(part).cast(pl.Int128) for part in self.window(bounds)[:2])
        until, since = (self._wide_squares.gather(pl.Series(self.position(offset))) for offset in bounds)
        return (n * (until - since) - total * total).cast(pl.Float64).to_numpy()


def _running(values: Integers) -> Integers:
    """The sums of the first 0, 1, ... of them: [rows + 1]."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _present(mask: NDArray[np.bool_], values: Floats) -> Floats:
    return np.where(mask, values, np.nan)


def _count(events: Events, feature: Feature) -> Floats:
    return events.window(feature.bounds).n.astype(np.float64)


def _sum(events: Events, feature: Feature) -> Floats:
    return events.window(feature.bounds).total / 100.0


def _mean(events: Events, feature: Feature) -> Floats:
    n, total, _ = events.window(feature.bounds)
    return _present(n > 0, total / n / 100.0)


def _std(events: Events, feature: Feature) -> Floats:
    n = events.window(feature.bounds).n
    return _present(n > 1, np.sqrt(events.spread(feature.bounds) / (n * (n - 1))) / 100.0)


def _ratio(events: Events, feature: Feature) -> Floats:
    n, total, _ = events.window(feature.bounds)
    return _present(total != 0, events.amounts / (total / n))


def _zscore(events: Events, feature: Feature) -> Floats:
    n, total, _ = events.window(feature.bounds)
    std = np.sqrt(events.spread(feature.bounds) / (n * (n - 1)))
    return _present((n > 1) & (std > 0.0), (events.amounts - total / n) / std)


def _since(events: Events, feature: Feature) -> Floats:
    n, _, newest = events.window(feature.bounds)
    return _present(n > 0, (events.instants - events.instants[newest]) / 1e6)


def _fraud_count(events: Events, feature: Feature) -> Floats:
    return events.frauds(feature.bounds).astype(np.float64)


def _fraud_ratio(events: Events, feature: Feature) -> Floats:
    n = events.window(feature.bounds).n
    return np.where(n > 0, events.frauds(feature.bounds) / n, 0.0)


def _new(events: Events, feature: Feature) -> Floats:
    """Whether the window of those events that have the key and the value is empty."""
    assert feature.field is not None
    rows, pairs = events.values(feature.field)
    timeline = Timeline(pairs, events.instants[rows], events.reach)
    first, second = feature.bounds
    new = np.full(len(events.keys), np.nan)
    new[rows] = timeline.passed(first) == timeline.passed(second)
    return new


def _distinct(events: Events, feature: Feature) -> Floats:
    """A value counts once: an event stands for its value until the next event with the same value takes over."""
    assert feature.field is not None
    rows, pairs = events.values(feature.field)
    first, second = feature.bounds
    at = events.timeline.at[rows]
    ends = at + second
    again = np.flatnonzero(pairs[1:] == pairs[:-1])
    ends[again] = np.minimum(ends[again], at[again + 1] + first)
    return events.timeline.active(at + first, ends).astype(np.float64)


MEASURES: Final[dict[Aggregate, Callable[[Events, Feature], Floats]]] = {
    Aggregate.COUNT: _count,
    Aggregate.SUM: _sum,
    Aggregate.MEAN: _mean,
    Aggregate.STD: _std,
    Aggregate.RATIO: _ratio,
    Aggregate.ZSCORE: _zscore,
    Aggregate.SINCE: _since,
    Aggregate.NEW: _new,
    Aggregate.DISTINCT: _distinct,
    Aggregate.FRAUD_COUNT: _fraud_count,
    Aggregate.FRAUD_RATIO: _fraud_ratio,
}
