"""The probability of fraud that an oracle gives who knows the simulator, but neither its dice nor the future.

It knows the law of each bot and each account's habits (``training.population``), and sees what can be known at the
instant of a payment: the earlier payments, this one, and the labels reported by then. It weighs by Bayes' rule

    amount_spike         certain from the amount
    merchant_compromise  for each merchant the days that a compromise may have begun on (``bench.hidden``)
    card_theft           the same for each account; and the amount as it is against the amount over the thief's factor
    account_takeover     for each device that an account shows for the first time whether it is the thief's: by when, as
                         what, where, to whom and how much is paid with it

Where exact inference is too dear it approximates, which can only make it worse than the best possible: what the two
kinds of windows explain to each other is exchanged once and stays as it was at each payment's own instant; a payment in
two thefts at once counts as in one; the share of the stolen is drawn payment by payment, where the bot shares out whole
days; and that an account is taken over once at most is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtr

from bench.hidden import Evidence, Flags, Floats, Integers, Known, probability_inside
from features.bots import ACCOUNT_TAKEOVER, AMOUNT_SPIKE, CARD_THEFT, MERCHANT_COMPROMISE, Bot, victims_a_day
from training.population import AWAY, DAY_SECONDS, DEVICE_DAYS, NOON, ONLINE, SPREAD, Population

Codes = NDArray[np.int32]
Law = dict[str, Any]

_SECOND: Final = 1_000_000
_LEAST: Final = 1e-12  # no evidence is perfect; but for labels, and for what a bot cannot do


@dataclass(frozen=True)
class Payments:
    """A history as the oracle reads it: columns [n] in the order of time, ids as the population's codes.

    ``amount``: minor units. ``online``, ``location`` and ``device`` are looked at only for ``account_takeover``.
    """

    account: Codes
    merchant: Codes
    amount: Integers
    online: Flags
    location: Codes
    device: Codes
    known: Known


def laws(bots: Iterable[Bot]) -> dict[str, Law]:
    """The parameters that each bot runs with, by its name: its own, and those given to it by ``partial``."""
    return {
        (bot.func if isinstance(bot, partial) else bot).__name__: {
            name: parameter.default for name, parameter in signature(bot).parameters.items()
        }
        for bot in bots
    }


def posterior(payments: Payments, population: Population, bots: Iterable[Bot]) -> Floats:
    """The probability [n] that each payment is a fraud, from what was known at its instant."""
    law = laws(bots)
    spike = np.zeros(len(payments.amount), bool)
    if AMOUNT_SPIKE in law:
        spike = payments.amount > law[AMOUNT_SPIKE]["threshold"]
    factor, share, theft = stolen(payments, population, law.get(CARD_THEFT))
    usual = theft.prior * share
    taken = taken_over(payments, population, law.get(ACCOUNT_TAKEOVER), 1 - usual + usual * factor)
    compromise = Windows.of(law.get(MERCHANT_COMPROMISE), "merchants_a_day", payments, len(np.unique(population.near)))

    def otherwise(inside: Floats | float) -> Floats:
        """The probability of a fraud that is not the merchant's, for a probability of being in a theft."""
        by_thief = inside * share * factor
        rest = (1 - inside * share) * ~spike
        return np.clip(1 - rest / (by_thief + 1 - inside * share + taken), _LEAST, 1 - _LEAST)

    def compromised(other: Floats) -> Floats:
        one, none = np.ones_like(other), np.zeros_like(other)
        return compromise.inside(payments.merchant, payments.known, Evidence(one, none, other, 1 - other))

    of_merchant = compromised(otherwise(theft.prior))
    base = np.clip(1 - (1 - of_merchant) * ~spike, _LEAST, 1 - _LEAST)
    in_theft = theft.inside(
        payments.account,
        payments.known,
        Evidence(taken + share * factor + (1 - share) * base, (1 - share) * (1 - base), taken + base, 1 - base),
    )
    other = otherwise(in_theft)
    return 1 - (1 - other) * (1 - compromised(other))


@dataclass(frozen=True)
class Windows:
    """The windows of one bot: how likely one ``begins`` at a key on each day [days]; ``length`` in days.

    ``prior``: the probability to be inside of one on any day. A bot that does not run has windows of 0 days.
    """

    begins: Floats
    length: int
    prior: float

    @classmethod
    def of(cls, law: Law | None, rate: str, payments: Payments, keys: int) -> Windows:
        """From a bot's law, whose victims a day are called ``rate`` there, among so many ``keys``."""
        days = int(payments.known.day[-1]) + 1
        if law is None or not law[rate]:
            return cls(np.zeros(days), 0, 0.0)
        begins = np.minimum(victims_a_day(law[rate], days) / keys, 1.0)
        return cls(begins, law["days"], 1 - (1 - min(law[rate] / keys, 1.0)) ** law["days"])

    def inside(self, key: Codes, known: Known, evidence: Evidence) -> Floats:
        """See ``bench.hidden.probability_inside``."""
        if not self.length:
            return np.zeros(len(key))
        return probability_inside(key, known, evidence, self.begins, self.length)


def stolen(payments: Payments, population: Population, law: Law | None) -> tuple[Floats, float, Windows]:
    """How much likelier each amount is under a thief than under the account [n]; the thief's share; the thefts.

    An amount is normal, but where that would be negative uniform up to twice the mean (Handbook, chapter 3); the
    thief's is ``factor`` times such an amount. That his are multiples of the factor in minor units is not used: it says
    something of the simulator, nothing of fraud.
    """
    windows = Windows.of(law, "accounts_a_day", payments, int((population.reachable > 0).sum()))
    if law is None:
        return np.zeros(len(payments.amount)), 0.0, windows
    mean, deviation = population.mean[payments.account], population.deviation[payments.account]
    amount, factor = payments.amount / 100, law["factor"]
    thief = _log_density(amount / factor, mean, deviation) - np.log(factor)
    return np.exp(np.minimum(thief - _log_density(amount, mean, deviation), 200)), law["share"], windows


def _log_density(amount: Floats, mean: Floats, deviation: Floats) -> Floats:
    normal = -(((amount - mean) / deviation) ** 2) / 2 - np.log(deviation * np.sqrt(2 * np.pi))
    with np.errstate(divide="ignore"):
        uniform = np.where(amount <= 2 * mean, np.log(ndtr(-mean / deviation) / (2 * mean)), -np.inf)
    density: Floats = np.logaddexp(normal, uniform)
    return density


def taken_over(payments: Payments, population: Population, law: Law | None, usual: Floats) -> Floats:
    """The odds [n] that the account's new owner pays : that anybody else does.

    ``usual`` [n]: how likely the amount is under anybody else, in units of the account's own density. Each payment with
    a device adds to what is known of who brought it, for as long after its first as a burst lasts.
    """
    account, timestamp = payments.account, payments.known.timestamp
    if law is None or not law["accounts_a_day"]:
        return np.zeros(len(account))
    rows = pl.DataFrame(
        {"account": account, "t": timestamp, "m": payments.merchant, "l": payments.location, "d": payments.device}
    )
    brought = pl.col("t").min().over("account", "d")
    since, paid, been = (
        rows.select(t=pl.col("t") - brought, m=_first("m") < brought, l=_first("l") < brought).to_dict().values()
    )
    new = since.to_numpy() == 0
    possible = payments.online & (since <= law["seconds"] * _SECOND).to_numpy() & ~(paid | been).to_numpy()
    with np.errstate(divide="ignore"):
        odds = np.where(
            possible, np.log(_pace(payments, population, law, new) * _marks(payments, population, law)), -np.inf
        )
    before = pl.col("odds").cum_sum().shift(1, fill_value=0.0).over("account", "d")
    # Of payments at one instant none is earlier.
    before = before.first().over("account", "d", "t")
    log_odds = rows.with_columns(odds=odds - np.log(usual)).select(before + pl.col("odds")).to_series().to_numpy()
    taken: Floats = np.exp(np.minimum(log_odds, 200))
    return taken


def _first(column: str) -> pl.Expr:
    """When the account met this value of a column for the first time."""
    return pl.col("t").min().over("account", column)


def _pace(payments: Payments, population: Population, law: Law, new: Flags) -> Floats:
    """How many payments with this device the new owner makes at this moment, for one of the account's, [n].

    With a ``new`` device: how often takeovers begin, against how often the account shows a device for the first time,
    since it had not used it yet or since it replaced another.
    """
    known, account = payments.known, payments.account
    begins = Windows.of({**law, "days": 1}, "accounts_a_day", payments, int((population.reachable > 0).sum())).begins
    second = known.timestamp // _SECOND % DAY_SECONDS
    own = population.rate[account] * np.exp(-(((second - NOON) / SPREAD) ** 2) / 2) / (SPREAD * np.sqrt(2 * np.pi))
    shares, rate = population.devices[account], population.rate[account, np.newaxis]
    replaced = np.log(DEVICE_DAYS[1] / DEVICE_DAYS[0]) / (DEVICE_DAYS[1] - DEVICE_DAYS[0])  # mean of 1 / days kept
    first_use = (shares * np.exp(-rate * shares * known.day[:, np.newaxis]) + (shares > 0) * replaced / rate).sum(
        axis=1
    )
    at_first = begins[known.day] / DAY_SECONDS / np.minimum(first_use, 1)
    further = (sum(law["payments"]) / 2 - 1) / law["seconds"] / (shares**2).sum(axis=1)
    pace: Floats = np.where(new, at_first, further) / own
    return pace


def _marks(payments: Payments, population: Population, law: Law) -> Floats:
    """How much likelier type, place, merchant and amount are under an account's new owner than under itself, [n]."""
    account, amount = payments.account, payments.amount / 100
    merchants = int(population.near.max()) + 1
    owner = np.repeat(np.arange(len(population.mean)), population.reachable)
    near = np.isin(account * np.int64(merchants) + payments.merchant, owner * merchants + population.near)
    to_whom = np.where(near, 1 / population.reachable[account], _LEAST) * merchants
    away = AWAY + (payments.location == population.home[account]) * (1 - AWAY) * population.cells
    mean, deviation = population.mean[account], population.deviation[account]
    # The mean of what the account happens to have paid lies some tenth around that of its law.
    low, high = (ndtr((amount / (mean * multiple) - 1) / 0.1) for multiple in law["multiple"])
    how_much = (low - high) / (mean * (law["multiple"][1] - law["multiple"][0]))
    log_own = _log_density(amount, mean, deviation)
    marks: Floats = how_much / np.exp(np.maximum(log_own, -200)) / population.mix[account, ONLINE] / to_whom / away
    return marks
