"""Features of one entity, event by event; to the bit what ``features.batch`` computes for a whole history.

An entity's events lie sorted by time in flat arrays. A cursor for each window offset remembers how many events it has
passed and their running sums, so that a window is the difference of two cursors and costs the same however long it is.
Events out of order, and a state that was just restored, only send the cursors back to the start.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from features.definitions import OF_LABELS, Aggregate, Entity, Feature, reach
from features.fields import END, Field, Tally, inserted
from features.measures import MEASURES, NAN, trend
from features.transaction import MICROSECOND, Label, Transaction

Bounds = tuple[int, int]


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
        # Each cursor's gains and losses: the tallies, with their field, that an event enters or leaves as it passes.
        self.tallies = sorted({(self.fields.index(f.field), f.bounds) for f in self.features if f.field is not None})
        tallied = list(enumerate(self.tallies))
        self.gains = [[(i, field) for i, (field, (first, _)) in tallied if first == o] for o in self.offsets]
        self.losses = [[(i, field) for i, (field, (_, second)) in tallied if second == o] for o in self.offsets]
        by_window: dict[Bounds, list[tuple[int, Feature]]] = {}
        for slot, feature in enumerate(self.features):
            by_window.setdefault(feature.bounds, []).append((slot, feature))
        self.windows = [Window(self, bounds, slotted) for bounds, slotted in by_window.items()]

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
        self.recency = [slot for slot, f in slotted if f.aggregate is Aggregate.SINCE]
        self.labels = [(slot, f.aggregate) for slot, f in slotted if f.aggregate in OF_LABELS]
        self.habits = [
            (slot, f.aggregate, plan.tallies.index((plan.fields.index(f.field), bounds)), f.field)
            for slot, f in slotted
            if f.field is not None
        ]


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
        # transaction_id -> its timestamp, and what was said of it when: (labelled_at, is_fraud), sorted
        self.labels: dict[str, tuple[int, list[tuple[int, bool]]]] = {}
        self._rewind()
        self._frauds: list[tuple[int, int, int, float]] | None = None

    def get(self, transaction: Transaction) -> list[float]:
        """The entity's features, in order, for a transaction at its own instant, from the other events known so far."""
        t = transaction.timestamp
        self._advance(t)
        values = [NAN] * len(self.plan.features)
        for window in self.plan.windows:
            until, since = self._cursors[window.until], self._cursors[window.since]
            n, total, squares = until.n - since.n, until.total - since.total, until.squares - since.squares
            for slot, measure in window.measures:
                values[slot] = measure(n, total, squares, transaction.amount)
            for slot, reference in window.trends:
                longer = self._cursors[reference]
                values[slot] = trend(n, squares, until.n - longer.n, until.total - longer.total)
            for slot in window.recency:
                if n:
                    values[slot] = float(t - self.instants[until.n - 1]) / 1e6
            if window.labels:
                self._get_of_labels(values, window, t, since.n, until.n)
            for slot, aggregate, tally, name in window.habits:
                if aggregate is Aggregate.DISTINCT:
                    values[slot] = float(self._tallies[tally].distinct)
                elif (text := getattr(transaction, name)) is not None:
                    code = self.fields[self.plan.tallies[tally][0]].code(text)
                    values[slot] = float(not self._tallies[tally].holds(code))
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
        if self.labels:
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
        for i, cursor in enumerate(self._cursors):
            limit, n = t - self.plan.offsets[i], cursor.n
            while n < size and instants[n] <= limit:
                amount = amounts[n]
                cursor.total += amount
                cursor.squares += amount * amount
                for tally, field in self.plan.gains[i]:
                    if code := self.fields[field].codes[n]:
                        self._tallies[tally].gain(code)
                for tally, field in self.plan.losses[i]:
                    if code := self.fields[field].codes[n]:
                        self._tallies[tally].lose(code)
                n += 1
            cursor.n = n

    def _get_of_labels(self, values: list[float], window: Window, t: int, since: int, until: int) -> None:
        """Puts in what the labels known at t say of the events from ``since`` to before ``until``."""
        frauds = self._known_frauds(t, window.bounds) if self.labels else []
        n, count = until - since, len(frauds)
        for slot, aggregate in window.labels:
            match aggregate:
                case Aggregate.FRAUD_COUNT | Aggregate.KNOWN_FRAUD_COUNT:
                    values[slot] = float(count)
                case Aggregate.FRAUD_RATIO:
                    values[slot] = float(count) / float(n) if n else 0.0
                case Aggregate.KNOWN_FRAUD_MEAN if count:
                    values[slot] = float(sum(amount for _, amount in frauds)) / float(count) / 100.0
                case Aggregate.SINCE_KNOWN_FRAUD if count:
                    values[slot] = float(t - max(frauds)[0]) / 1e6
                case Aggregate.SINCE_HONEST:
                    honest = self._newest_honest(frauds, since, until)
                    values[slot] = float(t - self.instants[honest]) / 1e6 if honest >= since else NAN
                case Aggregate.SINCE_RUN if count:
                    honest = self._newest_honest(frauds, since, until)
                    began = bisect_right(self.instants, self.instants[honest]) if honest >= since else since
                    values[slot] = float(t - self.instants[began]) / 1e6 if began < until else NAN

    def _newest_honest(self, frauds: list[tuple[int, int]], since: int, until: int) -> int:
        """The place of the newest event that is not one of these frauds; before ``since`` where there is none."""
        called = Counter(timestamp for timestamp, _ in frauds)
        at = until - 1
        while at >= since and called[self.instants[at]]:
            called[self.instants[at]] -= 1
            at -= 1
        return at

    def _known_frauds(self, t: int, bounds: Bounds) -> list[tuple[int, int]]:
        """(timestamp, amount) of the window's events that are known as frauds at t."""
        if self._frauds is None:
            self._frauds = list(self._fraud_intervals())
        first, second = bounds
        return [
            (timestamp, amount)
            for timestamp, amount, known, withdrawn in self._frauds
            if max(timestamp + first, known) <= t < min(timestamp + second, withdrawn)
        ]

    def _fraud_intervals(self) -> Iterable[tuple[int, int, int, float]]:
        """(timestamp, amount, known from, withdrawn at) of every event that was called a fraud."""
        for timestamp, said in self.labels.values():
            at = bisect_left(self.instants, timestamp)
            if at == len(self.instants) or self.instants[at] != timestamp:
                continue  # a label may overtake its transaction
            amount = max(self.amounts[at : bisect_right(self.instants, timestamp)])
            until = [labelled_at for labelled_at, _ in said[1:]] + [math.inf]
            for (known, is_fraud), withdrawn in zip(said, until, strict=True):
                if is_fraud:
                    yield timestamp, amount, known, withdrawn

    def _drop_events(self, n: int) -> None:
        del self.instants[:n], self.amounts[:n]
        recoded = [field.drop(n) for field in self.fields]
        if any(recoded) or n > self._cursors[-1].n:
            self._rewind()
            return
        for cursor in self._cursors:
            cursor.n -= n


_decode = msgspec.msgpack.Decoder(
    tuple[list[tuple[str, bytes]], list[bytes], dict[str, tuple[int, list[tuple[int, bool]]]]]
).decode
