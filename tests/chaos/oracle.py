"""The features that each accepted transaction must have, computed by the batch from the input alone.

The batch looks at a whole history at once; the stream at what it had read so far. The two differ for a transaction that
an earlier one of the same account or merchant followed in the log: for those the batch is computed once more, of what
the log held of that account or merchant before that moment. Each such piece of history is a world of its own, under a
name of its own in one frame with all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from features import batch
from features.definitions import FEATURES, Entity, reach
from features.transaction import MICROSECOND, Label, Transaction
from tests.features.live import frame
from tests.features.oracle import Floats

ROWS: Final = 500_000  # of worlds in one frame
Rows = npt.NDArray[np.int64]


class World(NamedTuple):
    """Some rows of the accepted transactions, and which of them are wanted."""

    rows: Rows
    wanted: Rows


def expected(accepted: Sequence[Transaction], labels: Sequence[Label]) -> Floats:
    """Float32 [accepted, FEATURES].

    ``accepted``: those that count, each account's and each merchant's in the order of the log. ``labels``: one a
    transaction, all known before anything that happens at or after their ``labelled_at`` is read.
    """
    history = frame([*accepted, *labels])
    instants = np.array([transaction.timestamp for transaction in accepted], np.int64)
    values = batch.compute(history).to_numpy(writable=True)
    for entity, field in ((Entity.ACCOUNT, "account_id"), (Entity.MERCHANT, "merchant_id")):
        columns = np.flatnonzero([feature.entity is entity for feature in FEATURES])
        features = [FEATURES[number] for number in columns]
        groups = history.with_row_index("row").group_by(field, maintain_order=True).agg("row")["row"]
        span = reach(FEATURES, entity) // MICROSECOND
        every = (world for group in groups for world in _worlds(group.to_numpy().astype(np.int64), instants, span))
        for worlds in _portions(every):
            rows = np.concatenate([world.rows for world in worlds])
            names = np.repeat(np.arange(len(worlds)), [len(world.rows) for world in worlds])
            apart = history[rows].with_columns(pl.concat_str(pl.Series(names), pl.lit("/"), field).alias(field))
            found = batch.compute(apart, features).to_numpy()
            starts = np.cumsum([0, *(len(world.rows) for world in worlds)])
            for world, start in zip(worlds, starts.tolist(), strict=False):
                places = start + np.searchsorted(world.rows, world.wanted)
                values[np.ix_(world.wanted, columns)] = found[places]
    return values


def _worlds(group: Rows, instants: Rows, span: int) -> Iterator[World]:
    """A world for each record of the group that came after later ones: the group before it, for the sake of those."""
    followed: dict[int, list[int]] = {}  # place in the group: places whose future it is the first to disturb
    later: list[int] = []  # places that nothing earlier has followed yet, oldest first
    for place, instant in enumerate(instants[group].tolist()):
        while later and instants[group[later[-1]]] > instant:
            followed.setdefault(place, []).append(later.pop())
        later.append(place)
    for place, places in followed.items():
        before = group[:place]
        wanted = group[sorted(places)]
        yield World(before[instants[before] >= instants[wanted].min() - span], wanted)


def _portions(worlds: Iterator[World]) -> Iterator[list[World]]:
    portion: list[World] = []
    size = 0
    for world in worlds:
        portion.append(world)
        size += len(world.rows)
        if size >= ROWS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
