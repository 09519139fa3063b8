"""Fraud bots: they turn honest traffic into labelled fraud, in simulated histories and in replayed live streams alike.

The first three are the scenarios of the simulator in Le Borgne et al., "Reproducible Machine Learning for Credit Card
Fraud Detection: Practical Handbook" (2022), chapter 3; the fourth is ours. They are meant to run in the order of
``SCENARIOS``, and a later one overwrites the label of an earlier one.

Ids and texts are integer codes here (``encode``); -1 stands for a missing one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidSetting

AMOUNT_SPIKE: Final = "amount_spike"
MERCHANT_COMPROMISE: Final = "merchant_compromise"
CARD_THEFT: Final = "card_theft"
ACCOUNT_TAKEOVER: Final = "account_takeover"
SCENARIOS: Final = (AMOUNT_SPIKE, MERCHANT_COMPROMISE, CARD_THEFT, ACCOUNT_TAKEOVER)
CODES: Final = {name: code for code, name in enumerate(SCENARIOS, start=1)}
HONEST: Final = 0
UNNAMED: Final = -1  # a fraud that the traffic came with, of whatever kind
MISSING: Final = -1

ACCOUNTS: Final = 5_000  # the Handbook's population, to which the bots' default frequencies belong
MERCHANTS: Final = 10_000
_SECOND: Final = 1_000_000
_DAY: Final = 86_400 * _SECOND

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Transactions as columns: arrays of one length, sorted by ``timestamp``. Raises ``ValueError`` where they are not.

    ``account``, ``merchant``, ``transaction_type``, ``location``, ``device``: codes. ``amount``: minor units (int64).
    ``timestamp``: microseconds since 1970-01-01 UTC (int64). ``fraud``: ``HONEST``, one of ``CODES``, or ``UNNAMED``.
    ``row``: the row of the caller's table that a transaction came from, -1 where a bot added it.
    """

    account: NDArray[np.int32]
    merchant: NDArray[np.int32]
    amount: Integers
    timestamp: Integers
    transaction_type: NDArray[np.int32]
    location: NDArray[np.int32]
    device: NDArray[np.int32]
    fraud: NDArray[np.int8]
    row: Integers

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of one traffic need one length, not {lengths}")
        if np.any(self.timestamp[1:] < self.timestamp[:-1]):
            raise ValueError("traffic needs to be sorted by timestamp")

    def __len__(self) -> int:
        return len(self.timestamp)


Bot = Callable[[Traffic, np.random.Generator], Traffic]


def encode(values: Iterable[str | None]) -> tuple[NDArray[np.int32], list[str]]:
    """A column of texts as codes, and the text of each code, in the order of first appearance; None is ``MISSING``."""
    names: dict[str, int] = {}
    codes = [MISSING if value is None else names.setdefault(value, len(names)) for value in values]
    return np.array(codes, dtype=np.int32), list(names)


def inject(traffic: Traffic, bots: Iterable[Bot], rng: np.random.Generator) -> Traffic:
    """The traffic after all bots, one after the other; the arrays of ``traffic`` itself stay as they are."""
    for bot in bots:
        traffic = bot(traffic, rng)
    return traffic


def scaled(
    scenarios: Collection[str], accounts: int, merchants: int, *, intensity: float = 1.0, online: int | None = None
) -> list[Bot]:
    """The bots of these scenarios in their order, with as many victims a day for the population as the Handbook has.

    ``intensity`` multiplies the victims a day. ``online`` is ``account_takeover``'s. Raises ``InvalidSetting`` for an
    unknown scenario.
    """
    unknown = sorted(set(scenarios) - set(SCENARIOS))
    if unknown:
        raise InvalidSetting(f"no fraud bot is called {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    of_accounts, of_merchants = intensity * accounts / ACCOUNTS, intensity * merchants / MERCHANTS
    every: dict[str, Bot] = {
        AMOUNT_SPIKE: amount_spike,
        MERCHANT_COMPROMISE: partial(merchant_compromise, merchants_a_day=2 * of_merchants),
        CARD_THEFT: partial(card_theft, accounts_a_day=3 * of_accounts),
        ACCOUNT_TAKEOVER: partial(account_takeover, accounts_a_day=of_accounts, online=online),
    }
    return [bot for name, bot in every.items() if name in scenarios]


def amount_spike(traffic: Traffic, rng: np.random.Generator, *, threshold: int = 220_00) -> Traffic:  # noqa: ARG001
    """Every amount above ``threshold`` (minor units) is fraud."""
    return _labelled(traffic, np.flatnonzero(traffic.amount > threshold), AMOUNT_SPIKE)


def merchant_compromise(
    traffic: Traffic, rng: np.random.Generator, *, merchants_a_day: float = 2.0, days: int = 28
) -> Traffic:
    """Each day some merchants are compromised: for ``days`` days from then on, all their transactions are fraud.

    ``merchants_a_day`` may be a fraction (see ``victims_a_day``); days are UTC. Raises ``InvalidSetting``.
    """
    _check("merchants_a_day", merchants_a_day, 0)
    _check("days", days, 1)
    day = _day(traffic)
    merchants, since = _victims(traffic.merchant, day, merchants_a_day, rng)
    rows, _ = _rows_of(traffic.merchant, day, merchants, since, days)
    return _labelled(traffic, rows, MERCHANT_COMPROMISE)


def card_theft(
    traffic: Traffic,
    rng: np.random.Generator,
    *,
    accounts_a_day: float = 3.0,
    days: int = 14,
    share: float = 1 / 3,
    factor: float = 5.0,
) -> Traffic:
    """Each day some accounts' cards are stolen: for ``days`` days a ``share`` of their transactions is the thief's.

    The thief spends ``factor`` times the amount, once, however many thefts fall on a transaction. ``accounts_a_day``
    may be a fraction (see ``victims_a_day``); days are UTC. Raises ``InvalidSetting``.
    """
    _check("accounts_a_day", accounts_a_day, 0)
    _check("days", days, 1)
    _check("share", share, 0, 1)
    _check("factor", factor, 0)
    day = _day(traffic)
    accounts, since = _victims(traffic.account, day, accounts_a_day, rng)
    rows, theft = _rows_of(traffic.account, day, accounts, since, days)
    # The Handbook takes the share of what all victims of one day did together; rounded, so that few still give some.
    of_day = since[theft]
    order = np.lexsort((rng.random(len(rows)), of_day))
    rank = np.arange(len(rows)) - np.searchsorted(of_day[order], of_day[order])
    size = np.bincount(of_day, minlength=1)[of_day[order]]
    stolen = np.unique(rows[order][rank < np.rint(share * size)])
    amount = traffic.amount.copy()
    amount[stolen] = np.rint(amount[stolen] * factor).astype(np.int64)
    return _labelled(replace(traffic, amount=amount), stolen, CARD_THEFT)


def account_takeover(
    traffic: Traffic,
    rng: np.random.Generator,
    *,
    accounts_a_day: float = 1.0,
    payments: tuple[int, int] = (3, 8),
    multiple: tuple[float, float] = (2.0, 6.0),
    seconds: int = 3_600,
    online: int | None = None,
) -> Traffic:
    """Each day some accounts are taken over: a burst of high payments is added from a new device and a new place.

    A burst has ``payments`` (least, most) transactions within ``seconds``, at merchants that the account has never
    paid (where there are any), each ``multiple`` (least, most) times the account's mean honest amount. An account is
    taken over at most once. The type is ``online``, or that of some payment to the same merchant. A new device gets the
    code after the highest; a new location is one of the traffic's that the account never used, or where there is none
    the code after the highest. Columns that are missing throughout stay missing. ``accounts_a_day`` may be a fraction
    (see ``victims_a_day``); days are UTC. Raises ``InvalidSetting``.
    """
    _check("accounts_a_day", accounts_a_day, 0)
    _check("payments", payments[0], 1, payments[1])
    _check("multiple", multiple[0], 0, multiple[1])
    _check("seconds", seconds, 1)
    day = _day(traffic)
    honest = (traffic.fraud == HONEST) & (traffic.amount > 0)  # a refund says nothing about spending
    picked, since = _victims(traffic.account[honest], day[honest], accounts_a_day, rng)
    accounts, first = np.unique(picked, return_index=True)
    if not len(accounts):
        return traffic
    rows, owner = _rows_of(traffic.account, day, accounts, np.zeros(len(accounts), np.int64), int(day[-1]) + 1)
    midnight = (traffic.timestamp[0] // _DAY + since[first]) * _DAY
    earliest = np.maximum(midnight, traffic.timestamp[0])
    latest = np.minimum(midnight + _DAY - 1, traffic.timestamp[-1])
    unit = 1 if np.any(traffic.timestamp % _SECOND) else _SECOND  # fractions must not give the bot away
    begin = rng.integers(earliest, np.maximum(earliest, latest - seconds * _SECOND), endpoint=True) // unit * unit
    end = np.minimum(begin + seconds * _SECOND, latest)
    merchants, places = np.unique(traffic.merchant), np.setdiff1d(traffic.location, [MISSING])
    known_devices = int(traffic.device.max()) + 1
    of_merchant = np.argsort(traffic.merchant, kind="stable")
    bursts = []
    for number, own in enumerate(np.split(rows, np.searchsorted(owner, np.arange(1, len(accounts))))):
        size = int(rng.integers(*payments, endpoint=True))
        drawn = np.sort(rng.integers(begin[number], end[number], size, endpoint=True))
        unusual = np.setdiff1d(merchants, traffic.merchant[own])
        paid = rng.choice(unusual if len(unusual) else merchants, size)
        low, high = (np.searchsorted(traffic.merchant, paid, side, sorter=of_merchant) for side in ("left", "right"))
        types = traffic.transaction_type[of_merchant[rng.integers(low, high)]]
        mean = traffic.amount[own[honest[own]]].mean()
        bursts.append(
            Traffic(
                account=np.full(size, accounts[number]),
                merchant=paid,
                amount=np.maximum(1, np.rint(mean * rng.uniform(*multiple, size))).astype(np.int64),
                timestamp=drawn // unit * unit,
                transaction_type=types if online is None else np.full(size, online, np.int32),
                location=np.full(size, _new_place(places, traffic.location[own], rng), np.int32),
                device=np.full(size, known_devices + number if known_devices else MISSING, np.int32),
                fraud=np.full(size, CODES[ACCOUNT_TAKEOVER], np.int8),
                row=np.full(size, -1),
            )
        )
    return _merged([traffic, *bursts])


def _new_place(places: NDArray[np.int32], own: NDArray[np.int32], rng: np.random.Generator) -> int:
    if not len(places):
        return MISSING
    elsewhere = np.setdiff1d(places, own)
    return int(rng.choice(elsewhere)) if len(elsewhere) else int(places[-1]) + 1


def _labelled(traffic: Traffic, rows: Integers, scenario: str) -> Traffic:
    fraud = traffic.fraud.copy()
    fraud[rows] = CODES[scenario]
    return replace(traffic, fraud=fraud)


def _merged(parts: Sequence[Traffic]) -> Traffic:
    """All parts in the order of time; of one instant, in the order of the parts."""
    order = np.argsort(np.concatenate([part.timestamp for part in parts]), kind="stable")
    names = [field.name for field in fields(Traffic)]
    return Traffic(**{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names})


def _day(traffic: Traffic) -> Integers:
    """The day (UTC) of each transaction; the first one's is 0."""
    day = traffic.timestamp // _DAY
    return day - day[:1]


def victims_a_day(a_day: float, days: int) -> Integers:
    """How many victims each day has, [days]; where ``a_day`` is a fraction the days take turns, the first one first."""
    turns: Integers = np.diff(np.ceil(np.arange(days + 1) * a_day)).astype(np.int64)
    return turns


def _victims(
    codes: NDArray[np.int32], day: Integers, a_day: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], Integers]:
    """Whom a bot picks from all ``codes``, and on which day; nobody twice on one day."""
    known = np.unique(codes)
    days = int(day[-1]) + 1 if len(day) else 0
    quota = np.minimum(victims_a_day(a_day, days), len(known))
    picked = [rng.choice(known, count, replace=False) for count in quota]
    return np.concatenate([known[:0], *picked]), np.repeat(np.arange(days), quota)


def _rows_of(
    codes: NDArray[np.int32], day: Integers, victims: NDArray[np.int32], since: Integers, days: int
) -> tuple[Integers, Integers]:
    """The rows of each victim in the ``days`` days from ``since`` on, and for each row the index of its victim."""
    span = int(day[-1]) + 1 + days if len(day) else days
    keys = codes.astype(np.int64) * span + day
    order = np.argsort(keys, kind="stable")
    starts = victims.astype(np.int64) * span + since
    low, high = np.searchsorted(keys, starts, sorter=order), np.searchsorted(keys, starts + days, sorter=order)
    owner = np.repeat(np.arange(len(victims)), high - low)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[owner]
    return order[position], owner


def _check(name: str, value: float, least: float, most: float = 1e9) -> None:
    if not least <= value <= most:
        raise InvalidSetting(f"{name} is {value}; give a number from {least:g} to {most:g}")
