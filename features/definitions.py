"""The one list of what is computed from a transaction; training and the stream both read it.

A windowed feature looks at its entity's events with ``t - delay - window < ts < t``; with a delay, the upper end is
``ts <= t - delay`` (but see ``AS_KNOWN``). So every window is the difference of two positions in the entity's events,
each of the form "how many events have ``ts <= t - offset``" with whole microseconds; ``Feature.bounds`` gives the two
offsets. Both ``features.batch`` and ``features.state`` are built on such positions and on exact integer sums: that is
why they agree to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Final

from features.errors import InvalidSetting

DAY: Final = timedelta(days=1)
LABEL_DELAY: Final = 7 * DAY
SEMANTICS: Final = 1  # to be raised whenever an aggregate's meaning changes while its name stays
STRICTLY_BEFORE: Final = 1  # microsecond: ts <= t - 1 is ts < t, so that events of one instant never see each other


class Entity(StrEnum):
    """Whose events a feature looks at."""

    TRANSACTION = "transaction"
    ACCOUNT = "account"
    MERCHANT = "merchant"


class Aggregate(StrEnum):
    """How a feature's value comes about; NaN stands for "missing" in each of them.

    Of the transaction itself: AMOUNT (major units), HOUR (0 to 23, UTC), WEEKEND (1 on Saturday and Sunday, UTC),
    NIGHT (1 where the hour is 0 to 6).
    Of the amounts in the window: COUNT; SUM, MEAN, STD (sample standard deviation) in major units; RATIO (this amount
    over the mean); ZSCORE (this amount less the mean, in standard deviations); TREND (the root mean square of the
    amounts, in which large ones weigh more, over the mean of the longer window ``reference``).
    Of the events in the window: SINCE (seconds since the newest); NEW (1 where the field's value does not occur);
    DISTINCT (how many values of the field occur).
    Of the events in the window that are known at t as frauds: FRAUD_COUNT, FRAUD_RATIO (to all of its events; 0 where
    it is empty). SINCE_HONEST: seconds since the newest of its events that is not known as a fraud; SINCE_RUN: seconds
    since the oldest event after that one, where an unbroken run of frauds began.
    KNOWN_FRAUD_COUNT, KNOWN_FRAUD_MEAN (of their amounts, in major units), SINCE_KNOWN_FRAUD (seconds since the newest)
    do not wait for the delay: in the window and after it they see all frauds that are known at t, which are more where
    frauds are reported early. A label names an instant: of several events of an entity at one instant, a fraud's amount
    is the largest.
    """

    AMOUNT = "amount"
    HOUR = "hour"
    WEEKEND = "weekend"
    NIGHT = "night"
    COUNT = "count"
    SUM = "amount_sum"
    MEAN = "amount_mean"
    STD = "amount_std"
    RATIO = "amount_ratio"
    ZSCORE = "amount_zscore"
    TREND = "amount_trend"
    SINCE = "seconds_since_previous"
    NEW = "new"
    DISTINCT = "distinct"
    FRAUD_COUNT = "fraud_count"
    FRAUD_RATIO = "fraud_ratio"
    SINCE_HONEST = "seconds_since_honest"
    SINCE_RUN = "seconds_since_fraud_run_began"
    KNOWN_FRAUD_COUNT = "known_fraud_count"
    KNOWN_FRAUD_MEAN = "known_fraud_mean"
    SINCE_KNOWN_FRAUD = "seconds_since_known_fraud"


OF_FIELD: Final = frozenset({Aggregate.NEW, Aggregate.DISTINCT})
AS_KNOWN: Final = frozenset({Aggregate.KNOWN_FRAUD_COUNT, Aggregate.KNOWN_FRAUD_MEAN, Aggregate.SINCE_KNOWN_FRAUD})
OF_LABELS: Final = AS_KNOWN | {
    Aggregate.FRAUD_COUNT,
    Aggregate.FRAUD_RATIO,
    Aggregate.SINCE_HONEST,
    Aggregate.SINCE_RUN,
}


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature; its name is derived from the rest. ``field`` only for NEW and DISTINCT, ``reference`` for TREND."""

    entity: Entity
    aggregate: Aggregate
    window: timedelta | None = None
    delay: timedelta = timedelta(0)
    field: str | None = None
    reference: timedelta | None = None

    @property
    def name(self) -> str:
        """Such as ``account_amount_mean_7d`` or ``merchant_fraud_ratio_30d_delay_7d``."""
        if self.window is None:
            return self.aggregate.value
        subject = f"{self.field.removesuffix('_id')}_" if self.field else ""
        delay = f"_delay_{_brief(self.delay)}" if self.delay else ""
        reference = f"_over_{_brief(self.reference)}" if self.reference else ""
        return f"{self.entity}_{subject}{self.aggregate}_{_brief(self.window)}{reference}{delay}"

    @property
    def bounds(self) -> tuple[int, int]:
        """The window as two offsets in microseconds: it holds the events with t - second < ts <= t - first."""
        if self.window is None:
            raise ValueError(f"{self.name} has no window")
        newest = (0 if self.aggregate in AS_KNOWN else _microseconds(self.delay)) or STRICTLY_BEFORE
        return newest, _microseconds(self.delay + self.window)

    @property
    def farthest(self) -> int:
        """How far back it looks, in microseconds."""
        return max(self.bounds[1], self.reference_bounds[1] if self.reference else 0)

    @property
    def reference_bounds(self) -> tuple[int, int]:
        """The longer window that a TREND is held against, as ``bounds`` gives one."""
        return replace(self, window=self.reference, reference=None).bounds


def feature_set(label_delay: timedelta = LABEL_DELAY) -> tuple[Feature, ...]:
    """Every feature, in model order, for labels that are known ``label_delay`` after their transaction.

    Raises ``InvalidSetting`` for a delay that is not positive: no label is known at once.
    """
    if label_delay <= timedelta(0):
        raise InvalidSetting(f"the label delay is {label_delay}; set one of a microsecond or more, such as 7d")
    account, merchant = Entity.ACCOUNT, Entity.MERCHANT
    own = (Aggregate.AMOUNT, Aggregate.HOUR, Aggregate.WEEKEND, Aggregate.NIGHT)
    short_to_long = (DAY, 7 * DAY, 30 * DAY)
    amounts = (Aggregate.COUNT, Aggregate.SUM, Aggregate.MEAN, Aggregate.STD, Aggregate.RATIO, Aggregate.ZSCORE)
    habits = ("merchant_id", "device_id", "location", "transaction_type")
    known = (Aggregate.COUNT, Aggregate.FRAUD_COUNT, Aggregate.FRAUD_RATIO)
    recent = (3 * DAY, 7 * DAY, 14 * DAY)
    return (
        *(Feature(Entity.TRANSACTION, a) for a in own),
        *(Feature(account, a, window) for window in short_to_long for a in amounts),
        *(Feature(account, a, 90 * DAY) for a in (Aggregate.RATIO, Aggregate.ZSCORE)),
        *(Feature(account, Aggregate.TREND, window, reference=90 * DAY) for window in recent),
        Feature(account, Aggregate.SINCE, 30 * DAY),
        *(Feature(account, a, 30 * DAY, field=field) for field in habits for a in (Aggregate.NEW, Aggregate.DISTINCT)),
        *(Feature(merchant, a, w) for w in short_to_long for a in (Aggregate.COUNT, Aggregate.MEAN, Aggregate.RATIO)),
        *(Feature(merchant, a, w, delay=label_delay) for w in short_to_long for a in known),
        *(Feature(merchant, a, 30 * DAY, delay=label_delay) for a in (Aggregate.SINCE_HONEST, Aggregate.SINCE_RUN)),
        Feature(merchant, Aggregate.KNOWN_FRAUD_COUNT, 7 * DAY, delay=label_delay),
        Feature(merchant, Aggregate.KNOWN_FRAUD_MEAN, 30 * DAY, delay=label_delay),
        Feature(merchant, Aggregate.SINCE_KNOWN_FRAUD, 30 * DAY, delay=label_delay),
    )


def reach(features: Iterable[Feature], entity: Entity | None = None) -> timedelta:
    """How far back the windows look at the most, of one entity or of all."""
    offsets = [f.farthest for f in features if f.window is not None and entity in (None, f.entity)]
    return timedelta(microseconds=max(offsets, default=0))


def fingerprint(features: Iterable[Feature]) -> str:
    """A digest of names, order and meaning; a model trained under another one must not be served."""
    lines = [f"{f.name}|{f.entity}|{f.aggregate}|{f.field}|{_windows(f) if f.window else ''}" for f in features]
    return hashlib.sha256("\n".join([str(SEMANTICS), *lines]).encode()).hexdigest()[:16]


def _windows(feature: Feature) -> str:
    return f"{feature.bounds}{feature.reference_bounds if feature.reference else ''}"


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _brief(span: timedelta) -> str:
    """A span as its largest whole unit: 7d, 36h, 90s."""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(span, timedelta(seconds=seconds))
        if not rest:
            return f"{count}{unit}"
    return f"{_microseconds(span)}us"


FEATURES: Final = feature_set()
