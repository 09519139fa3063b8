"""The formulas of the windows' features, an event at a time; ``features.formulas`` has the same ones for arrays.

Both do the same float64 operations in the same order on the same exact integers.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from features.compiled import compiled
from features.definitions import Aggregate
from features.events import after
from features.layout import (
    AMOUNT,
    COUNT,
    CURSOR,
    CURSORS,
    FIRST,
    FRAUDS,
    HIGH,
    INSTANT,
    KNOWN,
    LABELS,
    LOW,
    SECOND,
    SINCE,
    SPREAD,
    START,
    TOTAL,
    UNTIL,
    Doubles,
    Floats,
    Integers,
    Numbers,
)
from features.plan import CODES
from features.wide import rounded, spread

_COUNT: Final = CODES[Aggregate.COUNT]
_SUM: Final = CODES[Aggregate.SUM]
_MEAN: Final = CODES[Aggregate.MEAN]
_STD: Final = CODES[Aggregate.STD]
_RATIO: Final = CODES[Aggregate.RATIO]
_ZSCORE: Final = CODES[Aggregate.ZSCORE]
_TREND: Final = CODES[Aggregate.TREND]
_SINCE: Final = CODES[Aggregate.SINCE]
_NEW: Final = CODES[Aggregate.NEW]
_DISTINCT: Final = CODES[Aggregate.DISTINCT]
_FRAUD_COUNT: Final = CODES[Aggregate.FRAUD_COUNT]
_FRAUD_RATIO: Final = CODES[Aggregate.FRAUD_RATIO]
_SINCE_HONEST: Final = CODES[Aggregate.SINCE_HONEST]
_SINCE_RUN: Final = CODES[Aggregate.SINCE_RUN]
_KNOWN_FRAUD_COUNT: Final = CODES[Aggregate.KNOWN_FRAUD_COUNT]
_KNOWN_FRAUD_MEAN: Final = CODES[Aggregate.KNOWN_FRAUD_MEAN]
_SINCE_KNOWN_FRAUD: Final = CODES[Aggregate.SINCE_KNOWN_FRAUD]
_NAN: Final = math.nan

# What is worked out once for each window.
N: Final = 0
SUM: Final = 1
SQUARES_HIGH: Final = 2
SQUARES_LOW: Final = 3
SINCE_SLOT: Final = 4  # the window's events lie from this slot to before the next
UNTIL_SLOT: Final = 5
FRAUDS_LOW: Final = 6  # its known frauds' places, likewise
FRAUDS_HIGH: Final = 7
HONEST: Final = 8  # the slot of the newest honest event; before SINCE_SLOT where there is none
PARTS: Final = 9


@compiled
def look(
    row: Integers,
    windows: Integers,
    events: Integers,
    known: Integers,
    frauds: Integers,
    t: int,
    parts: Integers,
    deviations: Doubles,
) -> None:
    """Works out the windows of an event at t, to which the cursors have moved: ``parts`` and standard deviations."""
    first, labelled = known[row[KNOWN], FRAUDS], known[row[KNOWN], COUNT]
    for w in range(len(windows)):
        until, since = CURSORS + CURSOR * windows[w, UNTIL], CURSORS + CURSOR * windows[w, SINCE]
        n = row[until] - row[since]
        total = row[until + TOTAL] - row[since + TOTAL]
        high, low = row[until + HIGH] - row[since + HIGH], row[until + LOW] - row[since + LOW]
        parts[w, N], parts[w, SUM], parts[w, SQUARES_HIGH], parts[w, SQUARES_LOW] = n, total, high, low
        parts[w, SINCE_SLOT], parts[w, UNTIL_SLOT] = row[START] + row[since], row[START] + row[until]
        if windows[w, SPREAD]:
            deviations[w] = math.sqrt(spread(n, total, high, low) / float(n * (n - 1))) if n > 1 else _NAN
        if windows[w, LABELS]:
            parts[w, FRAUDS_LOW] = parts[w, FRAUDS_HIGH] = first
            parts[w, HONEST] = parts[w, UNTIL_SLOT] - 1
            if labelled:
                end = first + labelled
                parts[w, FRAUDS_LOW] = after(frauds, first, end, t - windows[w, SECOND])
                parts[w, FRAUDS_HIGH] = after(frauds, parts[w, FRAUDS_LOW], end, t - windows[w, FIRST])
                if windows[w, LABELS] == 2 and parts[w, FRAUDS_LOW] < parts[w, FRAUDS_HIGH]:
                    parts[w, HONEST] = _newest_honest(
                        events, parts[w, SINCE_SLOT], parts[w, UNTIL_SLOT], frauds, first, end
                    )


@compiled
def _newest_honest(events: Integers, since: int, until: int, frauds: Integers, first: int, end: int) -> int:
    """The slot of the newest event that is not one of the frauds. Each fraud takes one event of its instant."""
    at = until - 1
    fraud = after(frauds, first, end, events[at, INSTANT]) - 1
    while at >= since:
        while fraud >= first and frauds[fraud, INSTANT] > events[at, INSTANT]:
            fraud -= 1  # an instant may have more labels than events
        if fraud < first or frauds[fraud, INSTANT] < events[at, INSTANT]:
            break
        at, fraud = at - 1, fraud - 1
    return at


@compiled
def measure(  # noqa: C901, PLR0912  # one branch a formula
    row: Integers,
    steps: Integers,
    events: Integers,
    entries: Numbers,
    frauds: Integers,
    t: int,
    amount: int,
    found: Integers,
    parts: Integers,
    deviations: Doubles,
    out: Floats,
) -> None:
    """Writes the features of an event at t; ``found``: the entries of its texts, 0: unknown, -1: missing."""
    for i in range(len(steps)):
        code, w, extra, other = steps[i, 0], steps[i, 1], steps[i, 2], steps[i, 3]
        n, total = parts[w, N], parts[w, SUM]
        value = _NAN
        if code == _COUNT:
            value = float(n)
        elif code == _SUM:
            value = float(total) / 100.0
        elif code == _MEAN:
            if n:
                value = float(total) / float(n) / 100.0
        elif code == _STD:
            value = deviations[w] / 100.0
        elif code == _RATIO:
            if total:
                value = float(amount) / (float(total) / float(n))
        elif code == _ZSCORE:
            if deviations[w] > 0.0:
                value = (float(amount) - float(total) / float(n)) / deviations[w]
        elif code == _TREND:
            longer_n, longer_total = row[extra] - row[other], row[extra + TOTAL] - row[other + TOTAL]
            if n and longer_total:
                squares = rounded(parts[w, SQUARES_HIGH], parts[w, SQUARES_LOW])
                value = math.sqrt(squares / float(n)) / (float(longer_total) / float(longer_n))
        elif code == _SINCE:
            if n:
                value = float(t - events[parts[w, UNTIL_SLOT] - 1, INSTANT]) / 1e6
        elif code == _NEW:
            if found[extra] >= 0:
                value = 1.0 if found[extra] == 0 or entries[found[extra], other] == 0 else 0.0
        elif code == _DISTINCT:
            value = float(row[extra])
        else:
            value = _of_frauds(code, events, frauds, t, parts[w])
        out[i] = np.float32(value)


@compiled
def _of_frauds(code: int, events: Integers, frauds: Integers, t: int, part: Integers) -> float:
    """The features that look at what is known of frauds. ``part``: the window's."""
    low, high, since, until, honest = (
        part[FRAUDS_LOW],
        part[FRAUDS_HIGH],
        part[SINCE_SLOT],
        part[UNTIL_SLOT],
        part[HONEST],
    )
    called = float(high - low)
    if code in (_FRAUD_COUNT, _KNOWN_FRAUD_COUNT):
        return called
    if code == _FRAUD_RATIO:
        return called / float(part[N]) if low < high else 0.0
    if code == _KNOWN_FRAUD_MEAN:
        return float(frauds[high, AMOUNT] - frauds[low, AMOUNT]) / called / 100.0 if low < high else _NAN
    if code == _SINCE_KNOWN_FRAUD:
        return float(t - frauds[high - 1, INSTANT]) / 1e6 if low < high else _NAN
    if code == _SINCE_HONEST:
        return float(t - events[honest, INSTANT]) / 1e6 if honest >= since else _NAN
    if code == _SINCE_RUN and low < high:
        began = after(events, since, until, events[honest, INSTANT]) if honest >= since else since
        return float(t - events[began, INSTANT]) / 1e6 if began < until else _NAN
    return _NAN
