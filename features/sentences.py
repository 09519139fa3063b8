"""What a feature's value says, as a sentence for whoever reads an alert.

There is one template an aggregate; everything else in the sentence comes from the feature's spec. Some sentences say
more where other features of the same row are known: "4 of this merchant's 6 payments" needs both counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final, assert_never

from features.definitions import AS_KNOWN, Aggregate, Entity, Feature

# A unit, its seconds, and from how many seconds on it is used: half of the next smaller one before it is full.
_UNITS: Final = (("day", 86_400, 84_600), ("hour", 3_600, 3_570), ("minute", 60, 59.5), ("second", 1, 0))
_SECOND: Final = timedelta(seconds=1)
_WHO: Final = {Entity.TRANSACTION: "this payment", Entity.ACCOUNT: "this account", Entity.MERCHANT: "this merchant"}
# field -> what a payment has to do with its value, the value, and several of them
_FIELDS: Final = {
    "account_id": ("by this account", "account", "accounts"),
    "merchant_id": ("to this merchant", "merchant", "merchants"),
    "device_id": ("from this device", "device", "devices"),
    "location": ("at this location", "location", "locations"),
    "transaction_type": ("of this type", "payment type", "payment types"),
}


def sentence(feature: Feature, row: Mapping[Feature, float]) -> str:
    """What the feature's value in the row says; NaN is "missing", and has words of its own.

    The row may be as short as this one feature. Amounts are in major units, without a currency, because no message
    names one.
    """
    value = row[feature]
    return _missing(feature, row) if math.isnan(value) else _present(feature, value, row)


# A case an aggregate, in one place, so that the type checker finds the one that is missing.
def _present(feature: Feature, value: float, row: Mapping[Feature, float]) -> str:  # noqa: C901, PLR0912
    who, when = _WHO[feature.entity], _when(feature)
    match feature.aggregate:
        case Aggregate.AMOUNT:
            return f"amount {_money(value)}"
        case Aggregate.HOUR:
            return f"paid between {value:.0f}:00 and {value:.0f}:59 UTC"
        case Aggregate.WEEKEND:
            return f"paid {'on a weekend' if value else 'from Monday to Friday'} (UTC)"
        case Aggregate.NIGHT:
            return f"paid between {'0:00 and 6:59' if value else '7:00 and 23:59'} UTC"
        case Aggregate.COUNT:
            return f"{_payments(feature, value)} {when}" if value else _no_payments(feature)
        case Aggregate.SUM:
            return f"{who}'s earlier payments {when} add up to {_money(value)}"
        case Aggregate.MEAN:
            return f"{who}'s earlier payments {when} have a mean of {_money(value)}"
        case Aggregate.STD:
            return f"{who}'s earlier payments {when} have a standard deviation of {_money(value)}"
        case Aggregate.RATIO:
            return f"amount {_number(value)} times {_mean_of(feature)}"
        case Aggregate.ZSCORE:
            if not value:
                return f"amount exactly {_mean_of(feature)}"
            deviations = f"{_number(abs(value))} standard deviations {'above' if value > 0 else 'below'}"
            return f"amount {deviations} {_mean_of(feature)}"
        case Aggregate.TREND:
            return f"{who}'s payments {when} are {_number(value)} times {_long_mean_of(feature)} (root mean square)"
        case Aggregate.SINCE_HONEST:
            return f"{_span(value)} after the newest payment {_of(feature)} known to be honest"
        case Aggregate.SINCE_RUN:
            return f"{_span(value)} after payments {_of(feature)} began to be fraud, without a known honest one since"
        case Aggregate.KNOWN_FRAUD_COUNT:
            known = "is" if value == 1 else "are"
            return f"{_counted(value, 'payment', 'payments')} {_of(feature)} {when} {known} known as fraud"
        case Aggregate.KNOWN_FRAUD_MEAN:
            return f"the payments {_of(feature)} {when} that are known as fraud have a mean of {_money(value)}"
        case Aggregate.SINCE_KNOWN_FRAUD:
            return f"{_span(value)} after the newest payment {_of(feature)} known as fraud"
        case Aggregate.SINCE:
            return f"{_span(value)} after the previous payment {_of(feature)}"
        case Aggregate.NEW:
            relation = _FIELDS[feature.field or ""][0]
            return f"{'no' if value else 'at least one'} earlier payment {_of(feature)} {relation} {when}"
        case Aggregate.DISTINCT:
            return f"{_counted(value, *_FIELDS[feature.field or ''][1:])} in {who}'s earlier payments {when}"
        case Aggregate.FRAUD_COUNT | Aggregate.FRAUD_RATIO:
            return _frauds(feature, value, row)
    assert_never(feature.aggregate)


def _missing(feature: Feature, row: Mapping[Feature, float]) -> str:  # noqa: C901 - as above
    who, when, n = _WHO[feature.entity], _when(feature), _count_beside(feature, row)
    match feature.aggregate:
        case Aggregate.NEW:
            return f"this payment names no {_FIELDS[feature.field or ''][1]}"
        case Aggregate.MEAN | Aggregate.SINCE:
            return _no_payments(feature)
        case Aggregate.STD | Aggregate.RATIO | Aggregate.ZSCORE if n == 0:
            return _no_payments(feature)
        case Aggregate.STD | Aggregate.ZSCORE if n == 1:
            return f"{who} has only one earlier payment {when}, too few for a standard deviation"
        case Aggregate.STD:
            return f"{who} has fewer than two earlier payments {when}"
        case Aggregate.ZSCORE if n is not None:
            return f"{who}'s earlier payments {when} all have the same amount"
        case Aggregate.ZSCORE:
            return f"{who} has no two earlier payments of different amounts {when}"
        case Aggregate.RATIO:
            return f"{who}'s earlier payments {when} add up to nothing"
        case Aggregate.TREND:
            return f"{who} has no earlier payments {when} to hold against {_long_mean_of(feature)}"
        case Aggregate.SINCE_HONEST:
            return f"no payment {_of(feature)} is known to be honest {when}"
        case Aggregate.SINCE_RUN:
            return f"the newest payment {_of(feature)} that could be known is no fraud {when}"
        case Aggregate.KNOWN_FRAUD_MEAN | Aggregate.SINCE_KNOWN_FRAUD:
            return f"no payment {_of(feature)} {when} is known as fraud"
    # The others are never missing by their definition; should a row lack one nevertheless, that is what is to be said.
    return " ".join(f"{who}'s {feature.aggregate.replace('_', ' ')} {when}".split()) + " is not known"


def _frauds(feature: Feature, value: float, row: Mapping[Feature, float]) -> str:
    """Of the known payments those that were fraud, as a number or as a share."""
    who, when, n = _WHO[feature.entity], _when(feature), _count_beside(feature, row)
    share = feature.aggregate is Aggregate.FRAUD_RATIO
    if n == 0:
        return _no_payments(feature)
    payments = "payments known by now" if n is None else f"{_counted(n, 'payment', 'payments')} known by now"
    if not value:
        known = (
            f"{who}'s only payment known by now was not fraud" if n == 1 else f"none of {who}'s {payments} was fraud"
        )
    elif n == 1:
        known = f"{who}'s only payment known by now was fraud"
    else:
        part = f"{100 * value:.0f} %" if share and value >= 0.005 else "under 1 %" if share else f"{value:,.0f}"
        known = f"{part} of {who}'s {payments} {'was' if part == '1' else 'were'} fraud"
    return f"{known} {when}"


def _count_beside(feature: Feature, row: Mapping[Feature, float]) -> float | None:
    """How many payments the feature's window holds, where the row says it."""
    n = row.get(replace(feature, aggregate=Aggregate.COUNT, field=None), math.nan)
    return None if math.isnan(n) else n


def _payments(feature: Feature, n: float) -> str:
    kind = "payment" if feature.delay else "earlier payment"
    known = " known by now" if feature.delay else ""
    return f"{_counted(n, kind, f'{kind}s')} {_of(feature)}{known}"


def _no_payments(feature: Feature) -> str:
    payments = "payments known by now" if feature.delay else "earlier payments"
    return f"{_WHO[feature.entity]} has no {payments} {_when(feature)}"


def _of(feature: Feature) -> str:
    return "to this merchant" if feature.entity is Entity.MERCHANT else "of this account"


def _mean_of(feature: Feature) -> str:
    return f"{_WHO[feature.entity]}'s {_mean_over(feature.window, feature.delay)}"


def _long_mean_of(feature: Feature) -> str:
    return f"its {_mean_over(feature.reference, feature.delay)}"


def _mean_over(window: timedelta | None, delay: timedelta) -> str:
    length = _span((window or timedelta(0)) / _SECOND).replace(" ", "-").rstrip("s")
    return f"{length} mean" + (f" up to {_span(delay / _SECOND)} ago" if delay else "")


def _when(feature: Feature) -> str:
    if feature.window is None:
        return ""
    if feature.aggregate in AS_KNOWN:
        return f"in {_span((feature.delay + feature.window) / _SECOND)}"
    window = _span(feature.window / _SECOND)
    if not feature.delay:
        return f"in {window}"
    return f"({window}, labels {_span(feature.delay / _SECOND)} old)"


def _counted(n: float, one: str, several: str) -> str:
    return f"{'no' if not n else format(n, ',.0f')} {one if n == 1 else several}"


def _money(value: float) -> str:
    return f"{round(value, 2) + 0.0:,.2f}"  # never -0.00


def _number(value: float) -> str:
    """With two significant digits, but no fewer than those before the point, and at most four after it."""
    size = abs(value)
    decimals = 0 if size >= 9.95 else 1 if size >= 0.995 else 2 if size >= 0.0995 else 3 if size >= 0.00995 else 4
    text = f"{value:,.{decimals}f}"
    return "0" if not float(text.replace(",", "")) else text


def _span(seconds: float) -> str:
    """A time in its largest unit, with a decimal where it is short and not whole: 30 days, 1.5 hours, 45 seconds."""
    if seconds < 1:
        return "less than a second"
    unit, length = next((name, length) for name, length, start in _UNITS if seconds >= start)
    count = seconds / length
    text = f"{count:.0f}" if count >= 9.95 or abs(count - round(count)) < 0.05 else f"{count:.1f}"
    return f"{text} {unit}{'' if text == '1' else 's'}"
