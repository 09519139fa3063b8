"""Who is inside of a hidden window of fraud? Exact inference over windows that begin at random and last some days.

Two bots of ``features.bots`` work that way: a merchant is compromised for 28 days, a card stolen for 14. Each day a
window begins at each merchant (account) with a known probability; what happens inside says by amounts, and days later
by labels, that it does. The state of a key is how many days its newest window still lasts, 0 where there is none, which
is a Markov chain; the forward algorithm (Rabiner, "A tutorial on hidden Markov models", 1989, equations 19 and 20)
gives its distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_DAY = 86_400_000_000  # microseconds
_LEAST = 1e-200


@dataclass(frozen=True)
class Known:
    """When things become known; rows [n] in the order of time.

    ``timestamp``: microseconds since 1970 (UTC), of a payment. ``fraud``: its true label. ``labelled_at``: when a fraud
    is reported (that of an honest row is not looked at). ``delay``: microseconds after which an unreported payment
    counts as honest. ``unreported``: the share of frauds that are not reported yet at an age, in units of ``delay``.
    """

    timestamp: Integers
    fraud: Flags
    labelled_at: Integers
    delay: int
    unreported: Callable[[Floats], Floats]

    @property
    def day(self) -> Integers:
        """The day (UTC) of each row; that of the first is 0."""
        day = self.timestamp // _DAY
        return day - day[:1]


@dataclass(frozen=True)
class Evidence:
    """How likely each row [n] is, together with being a fraud or not, inside of a window and outside of all."""

    fraud_inside: Floats
    honest_inside: Floats
    fraud_outside: Floats
    honest_outside: Floats

    def log_ratio(self, rows: Integers, known: Known, now: Integers | None) -> Floats:
        """The logarithm of inside : outside that each of ``rows`` is worth at ``now``; None: when all is known.

        A reported fraud counts as one. All others are honest or not reported yet, the latter with a probability that
        falls with age. Minus infinity: the row rules a window out.
        """
        if now is None:
            reported, waiting = known.fraud[rows], np.zeros(len(rows))
        else:
            age = now - known.timestamp[rows]
            reported = known.fraud[rows] & (known.labelled_at[rows] <= now)
            waiting = np.where(age < known.delay, known.unreported(age / known.delay), 0.0)
        inside = np.where(
            reported, self.fraud_inside[rows], self.honest_inside[rows] + waiting * self.fraud_inside[rows]
        )
        outside = np.where(
            reported, self.fraud_outside[rows], self.honest_outside[rows] + waiting * self.fraud_outside[rows]
        )
        with np.errstate(divide="ignore"):
            ratio: Floats = np.log(inside) - np.log(outside)
        return ratio


def probability_inside(key: NDArray[np.int32], known: Known, evidence: Evidence, begins: Floats, length: int) -> Floats:
    """For each row [n] the probability that its key is inside of a window then, before the row itself is looked at.

    ``begins`` [days]: the probability that a window of ``length`` days begins on that day, the same for each key. Only
    rows of earlier instants are used, and of labels only those that were known at the instant.
    """
    day, days = known.day, len(begins)
    # From this many days back on, all labels are known to everyone who asks today.
    settling = -(-known.delay // _DAY) + 1
    order, first, end = _earlier(key, known, settling)
    bounds = np.searchsorted(day, np.arange(days + 1))
    state = np.zeros((int(key.max(initial=0)) + 1, length + 1))
    state[:, 0] = 1.0
    inside = np.zeros(len(key))
    for today in range(days):
        asking = np.arange(bounds[today], bounds[today + 1])
        if len(asking):
            count = end[asking] - first[asking]
            owner = np.repeat(np.arange(len(asking)), count)
            position = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + first[asking][owner]
            rows = order[position]
            worth = evidence.log_ratio(rows, known, known.timestamp[asking][owner])
            recent = _totals(owner * settling + today - day[rows], worth, len(asking) * settling)
            recent = recent.reshape(-1, settling)  # what was seen of each asking row's key, by days back
            own = state[key[asking]]
            for back in range(min(settling - 1, today), -1, -1):
                own = _observed(_next_day(own, begins[today - back]), recent[:, back])
            inside[asking] = 1 - own[:, 0]
        if (settled := today - settling + 1) >= 0:
            rows = np.arange(bounds[settled], bounds[settled + 1])
            worth = _totals(key[rows], evidence.log_ratio(rows, known, None), len(state))
            state = _observed(_next_day(state, begins[settled]), worth)
    return inside


def _earlier(key: NDArray[np.int32], known: Known, days: int) -> tuple[Integers, Integers, Integers]:
    """Rows by key and time, and for each row where in them begin and end those of its key on its and the last days."""
    since = known.timestamp - known.timestamp[:1] // _DAY * _DAY
    span = int(since[-1]) + 1 + days * _DAY if len(since) else 1
    codes = key.astype(np.int64) * span
    order = np.argsort(codes + since, kind="stable")
    by_key = (codes + since)[order]
    morning = np.maximum((known.day - (days - 1)) * _DAY, 0)
    return order, np.searchsorted(by_key, codes + morning), np.searchsorted(by_key, codes + since)


def _totals(cell: NDArray[Any], worth: Floats, cells: int) -> Floats:
    total: Floats = np.bincount(cell, worth, cells).astype(np.float64)
    return total


def _next_day(state: Floats, begins: float) -> Floats:
    """Each window has a day less to last, unless another one begins."""
    later = np.empty_like(state)
    later[:, :-1] = state[:, 1:] * (1 - begins)
    later[:, 0] += state[:, 0] * (1 - begins)
    later[:, -1] = begins
    return later


def _observed(state: Floats, log_ratio: Floats) -> Floats:
    """The state given evidence; its rows sum to 1 before and after."""
    # The larger of the two likelihoods is taken as 1, so that neither overflows; "outside" never becomes impossible.
    seen = state * np.exp(np.minimum(log_ratio, 0))[:, np.newaxis]
    seen[:, 0] = np.maximum(state[:, 0] * np.exp(np.minimum(-log_ratio, 0)), _LEAST)
    seen /= seen.sum(axis=1, keepdims=True)
    return seen
