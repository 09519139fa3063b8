"""What every feature is by its definition: plain loops over a list of events, slow and obvious.

Written from the design's feature semantics and the docstrings of ``features.definitions`` alone; nothing here is shared
with ``features.batch`` or ``features.state``. Means and variances are exact fractions, made float64 at the end.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from features.definitions import AS_KNOWN, OF_LABELS, Aggregate, Entity, Feature
from features.transaction import Label, Transaction

Record = Transaction | Label
Floats = npt.NDArray[np.float32]

MISSING = math.nan


def values(features: Iterable[Feature], transaction: Transaction, records: Sequence[Record]) -> Floats:
    """Float32 [features]: each feature of the transaction, given the records (in any order) that are known."""
    return np.array([value(feature, transaction, records) for feature in features], dtype=np.float32)


def value(feature: Feature, transaction: Transaction, records: Sequence[Record]) -> float:
    """One feature of the transaction, in float64."""
    if feature.entity is Entity.TRANSACTION:
        return _of_itself(feature.aggregate, transaction)
    events = [r for r in records if isinstance(r, Transaction) and _id(feature, r) == _id(feature, transaction)]
    labels = [r for r in records if isinstance(r, Label) and _id(feature, r) == _id(feature, transaction)]
    inside = [event for event in events if _in_window(feature, event.timestamp, transaction.timestamp)]
    match feature.aggregate:
        case Aggregate.SINCE:
            if not inside:
                return MISSING
            return (transaction.timestamp - max(event.timestamp for event in inside)) / 1_000_000
        case Aggregate.NEW | Aggregate.DISTINCT:
            assert feature.field is not None
            occurring = {getattr(event, feature.field) for event in inside} - {None}
            if feature.aggregate is Aggregate.DISTINCT:
                return len(occurring)
            own = getattr(transaction, feature.field)
            return MISSING if own is None else float(own not in occurring)
        case Aggregate.TREND:
            longer = dataclasses.replace(feature, window=feature.reference)
            reference = [e.amount for e in events if _in_window(longer, e.timestamp, transaction.timestamp)]
            if not inside or not sum(reference):
                return MISSING
            squares = float(sum(event.amount**2 for event in inside))
            return math.sqrt(squares / len(inside)) / (sum(reference) / len(reference))
        case aggregate if aggregate in OF_LABELS:
            known = _known(feature, transaction.timestamp, events, labels)
            return _of_labels(aggregate, transaction.timestamp, known, events, inside)
        case _:
            return _of_amounts(feature.aggregate, [event.amount for event in inside], transaction.amount)


def _of_labels(
    aggregate: Aggregate, t: int, known: list[int], events: Sequence[Transaction], inside: Sequence[Transaction]
) -> float:
    """``known``: the instants of the known frauds."""
    match aggregate:
        case Aggregate.FRAUD_COUNT | Aggregate.KNOWN_FRAUD_COUNT:
            return len(known)
        case Aggregate.FRAUD_RATIO:
            return len(known) / len(inside) if inside else 0.0
        case Aggregate.KNOWN_FRAUD_MEAN:
            largest = [max(event.amount for event in events if event.timestamp == instant) for instant in known]
            return float(Fraction(sum(largest), len(known))) / 100 if known else MISSING
        case Aggregate.SINCE_KNOWN_FRAUD:
            return (t - max(known)) / 1_000_000 if known else MISSING
    honest = [event.timestamp for event in inside]
    for instant in known:
        if instant in honest:
            honest.remove(instant)
    if aggregate is Aggregate.SINCE_HONEST:
        return (t - max(honest)) / 1_000_000 if honest else MISSING
    assert aggregate is Aggregate.SINCE_RUN
    run = [event.timestamp for event in inside if event.timestamp > max(honest, default=-1)]
    return (t - min(run)) / 1_000_000 if run else MISSING


def _of_itself(aggregate: Aggregate, transaction: Transaction) -> float:
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=transaction.timestamp)
    match aggregate:
        case Aggregate.AMOUNT:
            return float(Fraction(transaction.amount, 100))
        case Aggregate.HOUR:
            return instant.hour
        case Aggregate.WEEKEND:
            return float(instant.strftime("%A") in {"Saturday", "Sunday"})
        case Aggregate.NIGHT:
            return float(instant.hour in {0, 1, 2, 3, 4, 5, 6})
    raise AssertionError(aggregate)


def _of_amounts(aggregate: Aggregate, amounts: list[int], own: int) -> float:
    """``amounts`` and ``own`` in minor units."""
    mean = statistics.mean(map(Fraction, amounts)) if amounts else None
    deviation = float(statistics.stdev(map(Fraction, amounts))) if len(amounts) > 1 else None
    match aggregate:
        case Aggregate.COUNT:
            return len(amounts)
        case Aggregate.SUM:
            return float(Fraction(sum(amounts), 100))
        case Aggregate.MEAN:
            return MISSING if mean is None else float(mean / 100)
        case Aggregate.STD:
            return MISSING if deviation is None else deviation / 100
        case Aggregate.RATIO:
            return own / float(mean) if mean else MISSING
        case Aggregate.ZSCORE:
            return (own - float(mean)) / deviation if mean is not None and deviation else MISSING
    raise AssertionError(aggregate)


def _known(feature: Feature, t: int, events: Sequence[Transaction], labels: Sequence[Label]) -> list[int]:
    """The instants of the labelled transactions in the window that count as frauds at t.

    Of what was said of one transaction, the last that was said by t is in effect. A label whose transaction is not
    there (no event of the entity at its instant) says nothing yet.
    """
    frauds = []
    for transaction_id in {label.transaction_id for label in labels}:
        said = [label for label in labels if label.transaction_id == transaction_id and label.labelled_at <= t]
        if not said:
            continue
        in_effect = max(said, key=lambda label: (label.labelled_at, label.is_fraud))
        present = any(event.timestamp == in_effect.timestamp for event in events)
        if present and in_effect.is_fraud and _in_window(feature, in_effect.timestamp, t):
            frauds.append(in_effect.timestamp)
    return frauds


def _in_window(feature: Feature, timestamp: int, t: int) -> bool:
    assert feature.window is not None
    microsecond = timedelta(microseconds=1)
    if not feature.delay:
        return t - feature.window // microsecond < timestamp < t
    if feature.aggregate in AS_KNOWN:
        return t - (feature.delay + feature.window) // microsecond < timestamp < t
    end = t - feature.delay // microsecond
    return end - feature.window // microsecond < timestamp <= end


def _id(feature: Feature, record: Record) -> str:
    return record.account_id if feature.entity is Entity.ACCOUNT else record.merchant_id
