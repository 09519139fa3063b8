"""What the features of one entity need from its states, worked out once, as small arrays for the kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from features.definitions import OF_LABELS, Aggregate, Entity, Feature, reach
from features.layout import COUNTS, CURSOR, CURSORS, Integers
from features.transaction import MICROSECOND

CODES: Final = {aggregate: code for code, aggregate in enumerate(Aggregate)}
_WITH_SPREAD: Final = frozenset({Aggregate.STD, Aggregate.ZSCORE})
_WITH_HONEST: Final = frozenset({Aggregate.SINCE_HONEST, Aggregate.SINCE_RUN})


class Plan:
    """The features of one entity; ``fields``: the text fields they look at; ``reach``: how far back, in microseconds.

    ``offsets`` [cursors]: how far each lies behind. ``passing`` [., 4] from ``starts[cursor]`` on: the tallies that an
    event enters (gain 1) or leaves (-1) as the cursor passes it, their field, and their column among the field's
    tallies. ``windows`` [., 6]: see ``features.layout``. ``steps`` [features, 4]: code, window, and where the aggregate
    finds what else it needs (NEW: field, and column of its entry; DISTINCT: column of the row; TREND: the columns of
    the reference's cursors).
    """

    def __init__(self, features: Sequence[Feature], entity: Entity) -> None:
        self.entity = entity
        self.features = tuple(f for f in features if f.entity is entity)
        if not self.features:
            raise ValueError(f"no feature looks at the {entity}'s events; leave its step out")
        self.fields = sorted({f.field for f in self.features if f.field is not None})
        self.reach = reach(self.features) // MICROSECOND
        self.with_labels = any(f.aggregate in OF_LABELS for f in self.features)
        references = {offset for f in self.features if f.reference for offset in f.reference_bounds}
        offsets = sorted({offset for f in self.features for offset in f.bounds} | references)
        tallies = sorted({(self.fields.index(f.field), f.bounds) for f in self.features if f.field is not None})
        bounds = list(dict.fromkeys(f.bounds for f in self.features))
        columns = [sum(other[0] == tally[0] for other in tallies[:i]) for i, tally in enumerate(tallies)]
        passing = [
            [
                (i, field, columns[i], gain)
                for i, (field, (first, second)) in enumerate(tallies)
                for gain, at in ((1, first), (-1, second))
                if at == offset
            ]
            for offset in offsets
        ]
        self.cursors = len(offsets)
        self.tallies = len(tallies)
        self.tallies_of_a_field = max(columns, default=-1) + 1
        self.offsets = _table(offsets)
        self.starts = np.cumsum([0, *map(len, passing)], dtype=np.int64)
        self.passing = _table([item for items in passing for item in items], 4)
        self.windows = _table([self._window(of, offsets) for of in bounds], 6)
        self.steps = _table(
            [self._step(f, bounds.index(f.bounds), offsets, tallies, columns) for f in self.features], 4
        )

    def __reduce__(self) -> tuple[type[Plan], tuple[tuple[Feature, ...], Entity]]:
        return Plan, (self.features, self.entity)

    def _window(self, bounds: tuple[int, int], offsets: list[int]) -> tuple[int, ...]:
        aggregates = {f.aggregate for f in self.features if f.bounds == bounds}
        labels = 2 if aggregates & _WITH_HONEST else 1 if aggregates & OF_LABELS else 0
        until, since = map(offsets.index, bounds)
        return until, since, *bounds, int(bool(aggregates & _WITH_SPREAD)), labels

    def _step(
        self,
        feature: Feature,
        window: int,
        offsets: list[int],
        tallies: list[tuple[int, tuple[int, int]]],
        columns: list[int],
    ) -> tuple[int, int, int, int]:
        code, first, second = CODES[feature.aggregate], 0, 0
        if feature.field is not None:
            field = self.fields.index(feature.field)
            tally = tallies.index((field, feature.bounds))
            counted = CURSORS + CURSOR * len(offsets) + tally
            first, second = (field, COUNTS + columns[tally]) if feature.aggregate is Aggregate.NEW else (counted, 0)
        elif feature.aggregate is Aggregate.TREND:
            first, second = (CURSORS + CURSOR * offsets.index(offset) for offset in feature.reference_bounds)
        return code, window, first, second


def _table(rows: Iterable[object], *width: int) -> Integers:
    """An array of its own shape even when there are no rows."""
    return np.array(list(rows), np.int64).reshape(-1, *width)
