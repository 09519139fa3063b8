"""Features of one entity, event by event, as a Python object: for peers whose engine keeps a value for each key.

To the bit what ``features.batch`` and ``features.state`` compute.

An entity's events lie sorted by time in flat arrays. A cursor for each window offset remembers how many events it has
passed and their running sums, so that a window is the difference of two cursors and costs the same however long it is.
Events out of order, and a state that was just restored, only send the cursors back to the start.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bench.peers.fields import END, Field, Tally, inserted
from bench.peers.frauds import KnownFrauds, Labels
from bench.peers.measures import MEASURES, NAN, trend
from features.definitions import OF_LABELS, Aggregate, Entity, Feature, reach
from features.transaction import MICROSECOND, Label, Transaction

Bounds = tuple[int, int]
# Zero, and not missing, where nothing is known.
ZERO_WITHOUT: Final = frozenset({Aggregate.FRAUD_COUNT, Aggregate.FRAUD_RATIO, Aggregate.KNOWN_FRAUD_COUNT})


class Plan:
    """What the features of one entity need from its states, worked out once and shared by them all."""

    def __init__(self, features: Sequence[Feature], entity: Entity) -> None:
        self.entity = entity
        self.features = tuple(f for f in features if f.entity is entity)
        if not self.features:
            raise ValueError(f"no feature looks at the {entity}'s events; leave its step out")
        references = {offset for f in self.features if f.reference for offset in f.reference_bounds}
        self.offsets = sorted({offset for f in self.features for offset in f.bounds} | references)
        self.fields = sorted({f.field for f in self.features if f.field is not None})
        self.reach = reach(self.features) // MICROSECOND
        # Each cursor's offset, gains and losses: the tallies, with their field, that an event enters or leaves as the
        # cursor passes it.
        self.tallies = sorted({(self.fields.index(f.field), f.bounds) for f in self.features if f.field is not None})
        tallied = list(enumerate(self.tallies))
        self.passing = [
            (
                offset,
                [(i, field) for i, (field, (first, _)) in tallied if first == offset],
                [(i, field) for i, (field, (_, second)) in tallied if second == offset],
            )
            for offset in self.offsets
        ]
        by_window: dict[Bounds, list[tuple[int, Feature]]] = {}
        for slot, feature in enumerate(self.features):
            by_window.setdefault(feature.bounds, []).append((slot, feature))
        windows = [Window(self, bounds, slotted) for bounds, slotted in by_window.items()]
        self.windows = [window for window in windows if window.measures or window.trends or window.recency]
        self.label_windows = [window for window in windows if window.labels]
        habits = [(slot, f, self.fields.index(f.field)) for slot, f in enumerate(self.features) if f.field is not None]
        self.distinct = [
            (slot, self.tallies.index((field, f.bounds)))
            for slot, f, field in habits
            if f.aggregate is Aggregate.DISTINCT
        ]
        self.new = [
            (slot, self.tallies.index((field, f.bounds)), field)
            for slot, f, field in habits
            if f.aggregate is Aggregate.NEW
        ]
        # What holds where windows are empty and no fraud is known.
        self.blank = [0.0 if f.aggregate in ZERO_WITHOUT else NAN for f in self.features]

    def __reduce__(self) -> tuple[type[Plan], tuple[tuple[Feature, ...], Entity]]:
        return Plan, (self.features, self.entity)


class Window:
    """The features of one window: which cursors bound it, and where in the entity's features each value goes."""

    def __init__(self, plan: Plan, bounds: Bounds, slotted: Sequence[tuple[int, Feature]]) -> None:
        self.bounds = bounds
        self.until, self.since = (plan.offsets.index(offset) for offset in bounds)
        self.measures = [(slot, MEASURES[f.aggregate]) for slot, f in slotted if f.aggregate in MEASURES]
        self.trends = [
            (slot, plan.offsets.index(f.reference_bounds[1])) for slot, f in slotted if f.aggregate is Aggregate.TREND
        ]
        # As long as no fraud is known, the newest honest event is the newest one.
        self.recency = [slot for slot, f in slotted if f.aggregate in (Aggregate.SINCE, Aggregate.SINCE_HONEST)]
        self.labels = [(slot, f.aggregate) for slot, f in slotted if f.aggregate in OF_LABELS]
        self.honest = any(f.aggregate in (Aggregate.SINCE_HONEST, Aggregate.SINCE_RUN) for _, f in slotted)


class Cursor:
    """The entity's events with ts <= t - offset: how many, the sum of their amounts, and of the amounts' squares."""

    __slots__ = ("n", "squares", "total")

    def __init__(self) -> None:
        self.n = self.total = self.squares = 0


class EntityState:
    """The recent events and labels of one account or one merchant."""

    __slots__ = ("_at", "_cursors", "_frauds", "_tallies", "amounts", "fields", "instants", "labels", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.instants: array[int] = array("q")
        self.amounts: array[int] = array("i")
        self.fields = [Field(array("B"), END) for _ in plan.fields]
        self.labels: Labels = {}
        self._rewind()
        self._frauds: KnownFrauds | None = None

    def get(self, transaction: Transaction) -> list[float]:
        """The entity's features, in order, for a transaction at its own instant, from the other events known so far."""
        t, amount = transaction.timestamp, transaction.amount
        self._advance(t)
        cursors, values = self._cursors, self.plan.blank.copy()
        for window in self.plan.windows:
            until, since = cursors[window.until], cursors[window.since]
            n, total, squares = until.n - since.n, until.total - since.total, until.squares - since.squares
            for slot, measure in window.measures:
                values[slot] = measure(n, total, squares, amount)
            for slot, reference in window.trends:
                longer = cursors[reference]
                values[slot] = trend(n, squares, until.n - longer.n, until.total - longer.total)
            if n:
                for slot in window.recency:
                    values[slot] = float(t - self.instants[until.n - 1]) / 1e6
        for slot, tally in self.plan.distinct:
            values[slot] = float(self._tallies[tally].distinct)
        for slot, tally, field in self.plan.new:
            if (text := getattr(transaction, self.plan.fields[field])) is not None:
                values[slot] = float(not self._tallies[tally].holds(self.fields[field].code(text)))
        if self.labels:
            self._get_of_labels(values, t)
        return values

    def update(self, transaction: Transaction) -> None:
        """Takes the transaction in, at its place in time."""
        t = transaction.timestamp
        at = len(self.instants)
        if at and t < self.instants[-1]:
            at = bisect_right(self.instants, t)
            if at < self._cursors[0].n:
                self._rewind()
        self.instants.insert(at, t)
        self.amounts = inserted(self.amounts, at, transaction.amount)
        for name, field in zip(self.plan.fields, self.fields, strict=True):
            field.insert(at, getattr(transaction, name))
        if self._frauds and t <= self._frauds.newest:
            self._frauds = None

    def update_label(self, label: Label) -> None:
        """Takes in what became known of a transaction; labels may come before it, repeat, and contradict each other."""
        _, said = self.labels.setdefault(label.transaction_id, (label.timestamp, []))
        if (label.labelled_at, label.is_fraud) not in said:
            said.append((label.labelled_at, label.is_fraud))
            said.sort()
            self._frauds = None

    def forget(self, watermark: int) -> None:
        """Drops what no window reaches any more, now that no event before ``watermark`` will come."""
        until = watermark - self.plan.reach
        # Dropping moves every later event, so it waits until an eighth of them may go.
        if self.instants and self.instants[len(self.instants) // 8] <= until:
            self._drop_events(bisect_right(self.instants, until))
        if self.labels and next(iter(self.labels.values()))[0] <= until:
            self.labels = {key: label for key, label in self.labels.items() if label[0] > until}
            self._frauds = None

    def newest(self) -> int:
        """The newest instant that is still of use, in microseconds since 1970; 0 where the state is empty."""
        latest_label = max((timestamp for timestamp, _ in self.labels.values()), default=0)
        return max(self.instants[-1], latest_label) if self.instants else latest_label

    def pack(self) -> bytes:
        """The state as bytes, for ``unpack``; cursors are left out, they are found again."""
        arrays = [self.instants, self.amounts, *(field.codes for field in self.fields)]
        return msgspec.msgpack.encode(
            ([(a.typecode, a.tobytes()) for a in arrays], [field.texts for field in self.fields], self.labels)
        )

    @classmethod
    def unpack(cls, plan: Plan, packed: bytes) -> EntityState:
        """The state that ``pack`` wrote, under the same plan."""
        arrays, texts, labels = _decode(packed)
        state = cls(plan)
        state.instants, state.amounts, *codes = (array(typecode, data) for typecode, data in arrays)
        state.fields = [Field(c, t) for c, t in zip(codes, texts, strict=True)]
        state.labels = labels
        return state

    def __reduce__(self) -> tuple[Callable[[Plan, bytes], EntityState], tuple[Plan, bytes]]:
        return EntityState.unpack, (self.plan, self.pack())

    def _rewind(self) -> None:
        self._at = 0
        self._cursors = [Cursor() for _ in self.plan.offsets]
        self._tallies = [Tally() for _ in self.plan.tallies]

    def _advance(self, t: int) -> None:
        if t < self._at:
            self._rewind()
        self._at = t
        instants, amounts, size = self.instants, self.amounts, len(self.instants)
        for cursor, (offset, gains, losses) in zip(self._cursors, self.plan.passing, strict=True):
            n, limit = cursor.n, t - offset
            if n == size or instants[n] > limit:
                continue
            total, squares = cursor.total, cursor.squares
            while n < size and instants[n] <= limit:
                amount = amounts[n]
                total += amount
                squares += amount * amount
                for tally, field in gains:
                    if code := self.fields[field].codes[n]:
                        self._tallies[tally].gain(code)
                for tally, field in losses:
                    if code := self.fields[field].codes[n]:
                        self._tallies[tally].lose(code)
                n += 1
            cursor.n, cursor.total, cursor.squares = n, total, squares

    def _get_of_labels(self, values: list[float], t: int) -> None:
        frauds = self._frauds
        if frauds is None or not frauds.begin <= t < frauds.end:
            frauds = self._frauds = KnownFrauds(self.labels, self.instants, self.amounts, t)
        if frauds.instants:
            for window in self.plan.label_windows:
                self._get_of_frauds(values, t, window, frauds)

    def _get_of_frauds(self, values: list[float], t: int, window: Window, frauds: KnownFrauds) -> None:
        """Puts in what there is to say of the window's frauds, if it has any."""
        low, high = frauds.within(t, window.bounds)
        if low == high:
            return
        since, until = self._cursors[window.since].n, self._cursors[window.until].n
        honest = frauds.newest_honest(self.instants, since, until) if window.honest else 0
        for slot, aggregate in window.labels:
            match aggregate:
                case Aggregate.FRAUD_COUNT | Aggregate.KNOWN_FRAUD_COUNT:
                    values[slot] = float(high - low)
                case Aggregate.FRAUD_RATIO:
                    values[slot] = float(high - low) / float(until - since)
                case Aggregate.KNOWN_FRAUD_MEAN:
                    values[slot] = float(frauds.total(low, high)) / float(high - low) / 100.0
                case Aggregate.SINCE_KNOWN_FRAUD:
                    values[slot] = float(t - frauds.instants[high - 1]) / 1e6
                case Aggregate.SINCE_HONEST:
                    values[slot] = float(t - self.instants[honest]) / 1e6 if honest >= since else NAN
                case Aggregate.SINCE_RUN:
                    began = bisect_right(self.instants, self.instants[honest]) if honest >= since else since
                    values[slot] = float(t - self.instants[began]) / 1e6 if began < until else NAN

    def _drop_events(self, n: int) -> None:
        del self.instants[:n], self.amounts[:n]
        self._frauds = None
        recoded = [field.drop(n) for field in self.fields]
        if any(recoded) or n > self._cursors[-1].n:
            self._rewind()
            return
        for cursor in self._cursors:
            cursor.n -= n


_decode = msgspec.msgpack.Decoder(tuple[list[tuple[str, bytes]], list[bytes], Labels]).decode
