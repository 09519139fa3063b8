"""Who pays in a simulated history, and what honest payments they make.

Who pays whom, when and how much follows the simulator of Le Borgne et al., "Reproducible Machine Learning for Credit
Card Fraud Detection: Practical Handbook" (2022), chapter 3. Transaction types, locations and devices are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.bots import HONEST, Integers, Traffic
from features.transaction import microseconds

TYPES: Final = ("card_present", "contactless", "online", "withdrawal")
ONLINE: Final = TYPES.index("online")
AWAY: Final = 0.01  # the share of online payments that are made from somewhere on the map
DEVICE_DAYS: Final = (200.0, 800.0)  # how long a device is kept, least and most
NOON: Final = 43_200.0  # payments are drawn around it, in seconds of the day, and left out beyond midnight
SPREAD: Final = 20_000.0
DAY_SECONDS: Final = 86_400
_TYPE_WEIGHTS: Final = (4.0, 3.0, 2.0, 1.0)
_RADIUS: Final = 5.0
_CELL: Final = 10.0
_MAP: Final = 10  # cells along a side of the map, at least: room for payments made far from home
_SLOTS: Final = 3
_MICROSECONDS: Final = 1_000_000

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]


@dataclass(frozen=True)
class Population:
    """The habits that honest payments are drawn from; a row an account, whose code is the row.

    ``mean`` and ``deviation``: of the amounts, major units [n]. ``rate``: payments drawn a day [n], those beyond
    midnight included. ``near``: the merchants that each account pays, one account after the other; an account's begin
    at ``first`` and are ``reachable`` many [n]. ``mix``: the share of each of ``TYPES`` [n, 4]. ``devices``: the share
    of each device that an account has at a time [n, 3]. ``home``: the cell of the map where it lives [n]; ``cells``:
    how many the map has.
    """

    mean: Floats
    deviation: Floats
    rate: Floats
    near: Integers
    first: Integers
    reachable: Integers
    mix: Floats
    devices: Floats
    home: Codes
    cells: int


def honest(
    *, accounts: int, merchants: int, days: int, start: date, mean_rate: float, rng: np.random.Generator
) -> tuple[Population, Traffic]:
    """Accounts and merchants on a map, and the payments between them in the ``days`` days from ``start``, 00:00 UTC."""
    side = float(np.sqrt(merchants))  # one merchant a unit of area, as the Handbook's 10,000 on 100 x 100
    home = rng.uniform(0, side, (accounts, 2))
    shop = rng.uniform(0, side, (merchants, 2))
    mean = rng.uniform(5, 100, accounts)
    rate = rng.uniform(0, 2 * mean_rate, accounts)
    near, first, reachable = merchants_near(home, shop)

    rate[reachable == 0] = 0.0  # as in the Handbook: without a merchant near home, no payments
    payments = rng.poisson(rate[:, np.newaxis], (accounts, days))
    account, day = (np.repeat(axis, payments.ravel()) for axis in np.indices(payments.shape).reshape(2, -1))
    second = rng.normal(NOON, SPREAD, len(account)).astype(np.int64)
    awake = (second > 0) & (second < DAY_SECONDS)
    account, second = account[awake], (day * DAY_SECONDS + second)[awake]
    in_time = np.argsort(second, kind="stable")
    account, second = account[in_time], second[in_time]

    deviation = mean / 2
    amount = rng.normal(mean[account], deviation[account])
    negative = np.flatnonzero(amount < 0)
    amount[negative] = rng.uniform(0, 2 * mean[account[negative]])
    merchant = near[first[account] + rng.integers(0, reachable[account])]
    mix, kind = _kinds(accounts, account, rng)
    columns = max(_MAP, int(np.ceil(side / _CELL)))
    place = _locations(home[account], shop[merchant], kind == ONLINE, columns, rng)
    shares, device = _devices(accounts, account, second / DAY_SECONDS, rng)
    population = Population(
        mean, deviation, rate, near, first, reachable, mix, shares, home=_cell(home, columns), cells=columns**2
    )
    return population, Traffic(
        account=account.astype(np.int32),
        merchant=merchant.astype(np.int32),
        amount=np.rint(amount * 100).astype(np.int64),
        timestamp=microseconds(datetime(start.year, start.month, start.day, tzinfo=UTC)) + second * _MICROSECONDS,
        transaction_type=kind,
        location=place,
        device=device,
        fraud=np.full(len(account), HONEST, np.int8),
        row=np.arange(len(account)),
    )


def merchants_near(home: Floats, shop: Floats) -> tuple[Integers, Integers, Integers]:
    """The merchants within the radius of each account, one account after the other; where each begins; how many."""
    by_x = np.argsort(shop[:, 0], kind="stable")
    x, y = shop[by_x].T
    low, high = np.searchsorted(x, home[:, 0] - _RADIUS), np.searchsorted(x, home[:, 0] + _RADIUS, "right")
    near = []
    for (at_x, at_y), begin, end in zip(home, low, high, strict=True):
        inside = (x[begin:end] - at_x) ** 2 + (y[begin:end] - at_y) ** 2 < _RADIUS**2
        near.append(by_x[begin:end][inside])
    count = np.array([len(some) for some in near])
    return np.concatenate(near), np.cumsum(count) - count, count


def _kinds(accounts: int, account: Integers, rng: np.random.Generator) -> tuple[Floats, Codes]:
    """Each account's own mix of transaction types, and a type for each payment."""
    mix = rng.dirichlet(_TYPE_WEIGHTS, accounts)
    drawn = rng.random(len(account))
    kind = np.zeros(len(account), np.int32)
    for up_to in np.cumsum(mix, axis=1).T[:-1]:
        kind += drawn > up_to[account]
    return mix, kind


def _locations(home: Floats, shop: Floats, online: NDArray[np.bool_], columns: int, rng: np.random.Generator) -> Codes:
    """The cell of the map where each payment is made: at the merchant's, or online from home, seldom from elsewhere."""
    cell = _cell(np.where(online[:, np.newaxis], home, shop), columns)
    away = np.flatnonzero(online & (rng.random(len(online)) < AWAY))
    cell[away] = rng.integers(0, columns**2, len(away))
    return cell


def _cell(points: Floats, columns: int) -> Codes:
    x, y = points.T // _CELL
    cell: Codes = (x * columns + y).astype(np.int32)
    return cell


def _devices(accounts: int, account: Integers, day: Floats, rng: np.random.Generator) -> tuple[Floats, Codes]:
    """How each account shares its payments among its devices, and the device of each payment.

    An account has one to three devices, prefers some to others, and replaces each in time.
    """
    owned = rng.integers(1, _SLOTS, accounts, endpoint=True)
    favourite = np.where(owned == 1, 1.0, rng.uniform(0.5, 0.9, accounts))
    second = np.where(owned == _SLOTS, favourite + 0.7 * (1 - favourite), 1.0)
    kept = rng.uniform(*DEVICE_DAYS, (accounts, _SLOTS))
    age = rng.uniform(0, kept)
    drawn = rng.random(len(account))
    slot = (drawn > favourite[account]).astype(np.int64) + (drawn > second[account])
    generation = ((day + age[account, slot]) // kept[account, slot]).astype(np.int64)
    number = (account * _SLOTS + slot) * (generation.max(initial=0) + 1) + generation
    _, code = np.unique(number, return_inverse=True)
    shares = np.column_stack([favourite, second - favourite, 1 - second])
    return shares, code.astype(np.int32)
