"""The formulas of the features over arrays of events, for ``features.batch``.

An aggregate is a function of ``Events`` and the feature, entered in ``MEASURES``; it gives float64 [rows], NaN where it
is missing. The float64 operations are those of ``features.measures``, in the same order, on the same exact integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.definitions import Aggregate, Feature
from features.timeline import Floats, Integers, Timeline
from features.windows import Events


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


def _trend(events: Events, feature: Feature) -> Floats:
    n = events.window(feature.bounds).n
    reference_n, reference_total, _ = events.window(feature.reference_bounds)
    root = np.sqrt(events.squares(feature.bounds) / n)
    return _present((n > 0) & (reference_total != 0), root / (reference_total / reference_n))


def _since(events: Events, feature: Feature) -> Floats:
    n, _, newest = events.window(feature.bounds)
    return _present(n > 0, (events.instants - events.instants[newest]) / 1e6)


def _fraud_count(events: Events, feature: Feature) -> Floats:
    return events.frauds(feature).astype(np.float64)


def _fraud_ratio(events: Events, feature: Feature) -> Floats:
    n = events.window(feature.bounds).n
    return np.where(n > 0, events.frauds(feature) / n, 0.0)


def _known_fraud_mean(events: Events, feature: Feature) -> Floats:
    frauds = events.frauds(feature)
    return _present(frauds > 0, events.fraud_amounts(feature) / frauds / 100.0)


def _since_known_fraud(events: Events, feature: Feature) -> Floats:
    return _since_row(events, events.newest_fraud(feature))


def _since_honest(events: Events, feature: Feature) -> Floats:
    return _since_row(events, events.newest_honest(feature))


def _since_run(events: Events, feature: Feature) -> Floats:
    return _since_row(events, events.run_of_frauds(feature))


def _since_row(events: Events, rows: Integers) -> Floats:
    return _present(rows >= 0, (events.instants - events.instants[rows]) / 1e6)


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
    Aggregate.TREND: _trend,
    Aggregate.SINCE: _since,
    Aggregate.NEW: _new,
    Aggregate.DISTINCT: _distinct,
    Aggregate.FRAUD_COUNT: _fraud_count,
    Aggregate.FRAUD_RATIO: _fraud_ratio,
    Aggregate.SINCE_HONEST: _since_honest,
    Aggregate.SINCE_RUN: _since_run,
    Aggregate.KNOWN_FRAUD_COUNT: _fraud_count,
    Aggregate.KNOWN_FRAUD_MEAN: _known_fraud_mean,
    Aggregate.SINCE_KNOWN_FRAUD: _since_known_fraud,
}
