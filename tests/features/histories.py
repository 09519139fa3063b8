"""Histories for hypothesis: few accounts and merchants, so that events meet, at instants where windows begin and end.

Two worlds. ``TINY`` features have windows and delays of some microseconds and cover every aggregate with and without a
delay, for accounts and for merchants: among instants 0 to 40 every edge is hit all the time. ``FEATURES`` are the real
ones; their instants lie whole days apart, give or take a microsecond, so that t - w and t - delay are hit exactly too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from hypothesis import strategies as st

from features.definitions import FEATURES, Aggregate, Entity, Feature
from features.transaction import Label, Transaction, microseconds
from tests.features.oracle import Record

US = timedelta(microseconds=1)
DAY_US = 86_400_000_000
MONDAY = microseconds(datetime(2018, 4, 30, tzinfo=UTC))
WINDOWED = tuple(
    aggregate
    for aggregate in Aggregate
    if aggregate not in {Aggregate.AMOUNT, Aggregate.HOUR, Aggregate.WEEKEND, Aggregate.NIGHT}
)


def _tiny() -> tuple[Feature, ...]:
    """Every windowed aggregate of either entity, over plain and delayed windows of a few microseconds."""
    features = []
    for entity, subject, windows in (
        (Entity.ACCOUNT, "merchant_id", ((1, 0), (4, 0), (9, 5))),
        (Entity.MERCHANT, "device_id", ((9, 0), (4, 1))),
    ):
        for window, delay in windows:
            for aggregate in WINDOWED:
                chosen = subject if aggregate in {Aggregate.NEW, Aggregate.DISTINCT} else None
                reference = (window + 6) * US if aggregate is Aggregate.TREND else None
                features.append(Feature(entity, aggregate, window * US, delay * US, chosen, reference))
    return (Feature(Entity.TRANSACTION, Aggregate.AMOUNT), *features)


TINY = _tiny()


@dataclass(frozen=True)
class _World:
    features: tuple[Feature, ...]
    lateness: timedelta
    instants: st.SearchStrategy[int]
    delays: st.SearchStrategy[int]
    label_ages: st.SearchStrategy[int]


@dataclass(frozen=True)
class History:
    """Records in their order of arrival; none comes later than allowed, by event time of all that came before it."""

    world: Literal["tiny", "real"]
    records: tuple[Record, ...]

    @property
    def features(self) -> tuple[Feature, ...]:
        return _WORLDS[self.world].features

    @property
    def lateness(self) -> timedelta:
        return _WORLDS[self.world].lateness


_days = st.sampled_from([0, 1, 6, 7, 8, 13, 14, 15, 23, 29, 30, 31, 36, 37, 38, 44, 45, 89, 90, 91])
# An eighth of a second puts gaps of more than 24 days on the midpoint of two float32.
_nudge = st.sampled_from([0, 0, 0, -1, 1, 125_000])
_WORLDS: dict[Literal["tiny", "real"], _World] = {
    "tiny": _World(
        TINY,
        6 * US,
        st.integers(MONDAY, MONDAY + 40),
        st.sampled_from([0, 0, 0, 1, 3, 6]),
        st.integers(0, 20),
    ),
    "real": _World(
        FEATURES,
        timedelta(days=1),
        st.builds(lambda day, nudge: MONDAY + day * DAY_US + nudge, _days, _nudge),
        st.sampled_from([0, 0, 0, 1, DAY_US // 2, DAY_US]),
        st.builds(lambda day, nudge: max(0, day * DAY_US + nudge), _days, _nudge),
    ),
}

_amounts = st.one_of(
    st.integers(-3, 3),
    st.integers(1, 50_000),
    # Amounts in major units that are midpoints of two float32: the last bit of a float64 decides how they are rounded.
    st.integers(2**22, 2**23 - 1).map(lambda whole: 100 * whole + 25),
    st.integers(2**23, 2**24 - 1).map(lambda whole: 100 * whole + 50),
    st.sampled_from([0, 100, -100, 2**31 - 1, 2**31, -(2**31) - 1, 10**12, -(10**12), 10**12 - 1]),
)
_device = st.sampled_from([None, "", "phone", "télé", "a\x00b"])
_location = st.sampled_from([None, None, "Paris", "Pari"])
_type = st.sampled_from([None, "online", "atm"])


@st.composite
def histories(draw: st.DrawFn, *, contradicting: bool = False, at_most: int = 12) -> History:
    """A history with ties, late transactions and labels, duplicates, and labels that overtake their transaction.

    Without ``contradicting`` labels every transaction has one label at the most (it may be sent twice), as in a history
    frame; and a label overtakes its transaction only where no other event of the merchant or account has that instant,
    since until the transaction comes such a label would stand for the other event.
    """
    name = draw(st.sampled_from(list(_WORLDS)))
    world = _WORLDS[name]
    arrivals: list[tuple[int, Record]] = []
    payments = [_transaction(draw, world, number) for number in range(draw(st.integers(1, at_most)))]
    for payment in payments:
        arrival = payment.timestamp + draw(world.delays)
        arrivals.append((arrival, payment))
        if draw(st.booleans()):
            lonely = contradicting or _alone(payment, payments)
            for label in _labels(draw, world, payment, contradicting=contradicting):
                wait = draw(world.label_ages)
                before = lonely and draw(st.booleans())
                arrivals.append((arrival - wait if before else arrival + wait, label))
    # A tie of arrivals keeps a transaction before its own label, unless the label overtakes it.
    ordered = [record for _, record in sorted(arrivals, key=lambda pair: pair[0])]
    for _ in range(draw(st.integers(0, 2))):
        repeated = draw(st.sampled_from(ordered))
        after = draw(st.integers(ordered.index(repeated) + 1, len(ordered)))
        ordered.insert(after, repeated)
    return History(name, tuple(ordered))


def _transaction(draw: st.DrawFn, world: _World, number: int) -> Transaction:
    return Transaction(
        f"t{number}",
        draw(st.sampled_from(["a", "b"])),
        draw(st.sampled_from(["m", "n", "o"])),
        draw(_amounts),
        draw(world.instants),
        draw(_type),
        draw(_location),
        draw(_device),
    )


def _labels(draw: st.DrawFn, world: _World, payment: Transaction, *, contradicting: bool) -> list[Label]:
    versions = draw(st.integers(1, 4)) if contradicting else 1
    return [
        Label(
            payment.transaction_id,
            payment.account_id,
            payment.merchant_id,
            payment.timestamp,
            draw(st.sampled_from([True, True, False])),
            payment.timestamp + draw(world.label_ages),
        )
        for _ in range(versions)
    ]


def _alone(payment: Transaction, payments: list[Transaction]) -> bool:
    return not any(
        other is not payment
        and other.timestamp == payment.timestamp
        and (other.account_id == payment.account_id or other.merchant_id == payment.merchant_id)
        for other in payments
    )
