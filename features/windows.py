"""What the windows of an entity's events hold, as arrays: a chunk of whole keys at a time, for ``features.formulas``.

What several features need is worked out once. A window's count and sums are differences of running totals at two
positions; labels and distinct values are intervals in which something counts. All of it is exact, in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.definitions import Feature
from features.timeline import Floats, Integers, Keys, Timeline
from features.transaction import MICROSECOND

NEVER: Final = (1 << 63) - 1  # an instant that does not come
UNDATED: Final = -1  # a fraud that is known once the label delay is over
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

    ``fraud_known``: when an event became known as a fraud, or ``UNDATED``; ``NEVER`` for honest ones. ``codes``: for
    each field, a number for each value, 0 where it is missing. ``reach``: the farthest that any window looks back.
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
        self._honest: dict[Bounds, Integers] = {}
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

    def frauds(self, feature: Feature) -> Integers:
        """How many of the events that the feature looks at are known as frauds by now."""
        begins, ends, _ = self._frauds(feature)
        return self.timeline.active(begins, ends)

    def fraud_amounts(self, feature: Feature) -> Integers:
        """The sum of the amounts of those frauds; of one instant, the largest amount stands for each."""
        begins, ends, rows = self._frauds(feature)
        return self.timeline.active(begins, ends, self._largest_of_instant[rows])

    def newest_fraud(self, feature: Feature) -> Integers:
        """The row of the newest of those frauds, -1 where there is none."""
        begins, ends, rows = self._frauds(feature)
        order = np.argsort(begins, kind="stable")
        order = order[begins[order] < ends[order]]
        # Windows end in the order of the events: of the frauds that are known, the newest is the last to be over.
        newest = np.append(-1, np.maximum.accumulate(rows[order]))
        found = newest[np.searchsorted(begins[order], self.timeline.at, side="right")]
        return np.where(self.timeline.at[found] + feature.bounds[1] > self.timeline.at, found, -1)

    def newest_honest(self, feature: Feature) -> Integers:
        """The row of the newest of the window's events that is not known as a fraud by now, -1 where there is none."""
        if feature.bounds not in self._honest:
            until, since = map(self.position, feature.bounds)
            # Back over the frauds that are known as soon as a window sees them, then one by one over those known later.
            later = self._known - self.instants > feature.bounds[0]
            before = np.append(-1, np.maximum.accumulate(np.where(later, np.arange(len(later)), -1)))
            found = before[until]
            while len(wrong := np.flatnonzero((found >= since) & (self._known[found] <= self.instants))):
                found[wrong] = before[found[wrong]]
            self._honest[feature.bounds] = np.where(found >= since, found, -1)
        return self._honest[feature.bounds]

    def run_of_frauds(self, feature: Feature) -> Integers:
        """The row of the oldest of the window's events after the newest honest one, -1 where it is the newest."""
        until, since = map(self.position, feature.bounds)
        honest = self.newest_honest(feature)
        after = np.append(self._instants_begin, len(self.keys))[self._instant[honest] + 1]
        began = np.where(honest >= 0, after, since)
        return np.where(began < until, began, -1)

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

    @property
    def _known(self) -> Integers:
        if self._fraud_known is None:
            raise ValueError("these events were given without their labels")
        return self._fraud_known

    @cached_property
    def _new_instant(self) -> NDArray[np.bool_]:
        """Whether a row's instant is another than that of the row before, or its key is."""
        return np.append(True, (np.diff(self.instants) != 0) | (self.keys[1:] != self.keys[:-1]))

    @cached_property
    def _instants_begin(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._new_instant)

    @cached_property
    def _instant(self) -> Integers:
        """The number of each row's instant."""
        return np.cumsum(self._new_instant) - 1

    @cached_property
    def _largest_of_instant(self) -> Integers:
        largest: Integers = np.maximum.reduceat(self.amounts, self._instants_begin)
        return largest[self._instant]

    def _frauds(self, feature: Feature) -> tuple[Integers, Integers, NDArray[np.intp]]:
        """From and until which place each fraud is one of those that the feature looks at, and its row."""
        first, second = feature.bounds
        rows = np.flatnonzero(self._known != NEVER)
        known = self._known[rows]
        wait = np.where(known == UNDATED, feature.delay // MICROSECOND, known - self.instants[rows])
        at = self.timeline.at[rows]
        return at + np.clip(wait, first, second), at + second, rows

    def squares(self, bounds: Bounds) -> Floats:
        """The sum of the squares of the window's amounts, exact as an integer and rounded once, to float64."""
        largest = int(np.abs(self.amounts).max())
        if int(self.window(bounds).n.max()) * largest * largest <= NEVER:
            return self._squared(bounds).astype(np.float64)
        return self._wide_squared(bounds).cast(pl.Float64).to_numpy()

    def _wide_squared(self, bounds: Bounds) -> pl.Series:
        until, since = (self._wide_squares.gather(pl.Series(self.position(offset))) for offset in bounds)
        return until - since

    def _squared(self, bounds: Bounds) -> Integers:
        until, since = map(self.position, bounds)
        return self._squares[until] - self._squares[since]

    def _wide_spread(self, bounds: Bounds) -> Floats:
        n, total = (pl.Series(part).cast(pl.Int128) for part in self.window(bounds)[:2])
        return (n * self._wide_squared(bounds) - total * total).cast(pl.Float64).to_numpy()


def _running(values: Integers) -> Integers:
    """The sums of the first 0, 1, ... of them: [rows + 1]."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums
