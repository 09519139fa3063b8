"""A labelled history, simulated: honest payments with habits, and frauds by the bots of ``features.bots``.

Who pays whom, when and how much follows the simulator of Le Borgne et al., "Reproducible Machine Learning for Credit
Card Fraud Detection: Practical Handbook" (2022), chapter 3. Transaction types, locations and devices are ours.

    python -m training.simulate history.parquet --seed 7 --accounts 5000 --days 183

The same options and seed give the same bytes, whatever the number of threads, with the same numpy, polars and
processor architecture; other versions may draw or write differently.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from features.bots import CODES, HONEST, SCENARIOS, Integers, Traffic, inject, scaled
from features.definitions import LABEL_DELAY
from features.errors import InvalidSetting, VigieError
from features.transaction import microseconds

TYPES: Final = ("card_present", "contactless", "online", "withdrawal")
MERCHANTS_AN_ACCOUNT: Final = 2  # as in the Handbook: 10,000 for 5,000
STAGES: Final = 3
MAX_ROWS: Final = 100_000_000
MAX_INTENSITY: Final = 10_000
_ONLINE: Final = TYPES.index("online")
_TYPE_WEIGHTS: Final = (4.0, 3.0, 2.0, 1.0)
_RADIUS: Final = 5.0
_CELL: Final = 10.0
_MAP: Final = 10  # cells along a side of the map, at least: room for payments made far from home
_AWAY: Final = 0.01  # the share of online payments that are made from somewhere on the map
_SLOTS: Final = 3
_DEVICE_DAYS: Final = (200.0, 800.0)  # how long a device is kept, least and most
_DAY_SECONDS: Final = 86_400
_MICROSECONDS: Final = 1_000_000
_ROW_GROUP: Final = 131_072
_INSTANT: Final = pl.Datetime("us", "UTC")

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to simulate; the defaults are the Handbook's. Raises ``InvalidSetting``.

    ``merchants``: None for two an account. The grid keeps the Handbook's density, so every account finds as many
    merchants near home at any size. ``rate``: mean transactions an account makes a day. ``scenarios``: which bots run;
    ``intensity`` multiplies how often. Days begin at ``start``, 00:00 UTC.
    """

    accounts: int = 5_000
    merchants: int | None = None
    days: int = 183
    start: date = date(2018, 4, 1)
    rate: float = 2.0
    scenarios: tuple[str, ...] = SCENARIOS
    intensity: float = 1.0
    seed: int = 7

    def __post_init__(self) -> None:
        for name, least in (("accounts", 1), ("merchants", 1), ("days", 1), ("seed", 0)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise InvalidSetting(f"{name} is {number}; give a whole number of at least {least}")
        if not 0 < self.rate < float("inf"):
            raise InvalidSetting(f"rate is {self.rate}; give the mean transactions an account makes a day, such as 2")
        if not 0 <= self.intensity <= MAX_INTENSITY:
            raise InvalidSetting(f"intensity is {self.intensity}; give a factor from 0 to {MAX_INTENSITY:,}, such as 1")
        if self.start.year < 1970 or self.days > (date.max - self.start).days:
            raise InvalidSetting(f"{self.days} days from {self.start} leave the years 1970 to 9999; choose others")
        if self.accounts * self.days * max(self.rate, 1) > MAX_ROWS or (self.merchants or 0) > MAX_ROWS:
            size = f"{self.accounts:,} accounts x {self.days:,} days x {self.rate:g} a day, or the merchants,"
            raise InvalidSetting(f"{size} are more than {MAX_ROWS:,}; choose fewer")


def simulate(spec: Simulation, advance: Callable[[], object] = lambda: None) -> pl.DataFrame:
    """A history as files have it, sorted by time: ``amount`` Float64 in major units, ``transaction_id`` in that order.

    ``fraud_scenario`` and ``labelled_at`` are null for honest rows; a fraud is reported within ``LABEL_DELAY``.
    Calls ``advance`` after each of its ``STAGES``. Raises ``InvalidSetting``, also where nobody happens to pay.
    """
    merchants = spec.merchants or MERCHANTS_AN_ACCOUNT * spec.accounts
    bots = scaled(spec.scenarios, spec.accounts, merchants, intensity=spec.intensity, online=_ONLINE)
    rng = np.random.default_rng(spec.seed)
    honest = _honest(spec, merchants, rng)
    if not len(honest):
        raise InvalidSetting(f"no payment came of {spec}; choose more accounts, days, or a higher rate")
    advance()
    traffic = inject(honest, bots, rng)
    advance()
    history = _history(traffic, rng)
    advance()
    return history


def write(history: pl.DataFrame, out: Path) -> None:
    """Writes .parquet or .csv; the file appears whole or not at all. Raises ``InvalidSetting``."""
    check_writable(out)
    unfinished = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if out.suffix == ".parquet":
                history.write_parquet(unfinished, row_group_size=_ROW_GROUP)
            else:
                history.write_csv(unfinished, datetime_format="%Y-%m-%dT%H:%M:%SZ", float_precision=2)
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidSetting(f"{out} cannot be written: {error}; choose another file") from error


def check_writable(out: Path) -> None:
    """Raises ``InvalidSetting`` for a file of another kind than .parquet and .csv, and for a folder."""
    if out.suffix not in (".parquet", ".csv"):
        raise InvalidSetting(f"{out} is neither .parquet nor .csv; end the file's name with one of them")
    if out.is_dir():
        raise InvalidSetting(f"{out} is a folder; name a file in it")


def _honest(spec: Simulation, merchants: int, rng: np.random.Generator) -> Traffic:
    side = float(np.sqrt(merchants))  # one merchant a unit of area, as the Handbook's 10,000 on 100 x 100
    home = rng.uniform(0, side, (spec.accounts, 2))
    shop = rng.uniform(0, side, (merchants, 2))
    mean = rng.uniform(5, 100, spec.accounts)
    rate = rng.uniform(0, 2 * spec.rate, spec.accounts)
    near, first, reachable = _merchants_near(home, shop)

    rate[reachable == 0] = 0.0  # as in the Handbook: without a merchant near home, no payments
    payments = rng.poisson(rate[:, np.newaxis], (spec.accounts, spec.days))
    account, day = (np.repeat(axis, payments.ravel()) for axis in np.indices(payments.shape).reshape(2, -1))
    second = rng.normal(_DAY_SECONDS / 2, 20_000, len(account)).astype(np.int64)
    awake = (second > 0) & (second < _DAY_SECONDS)
    account, second = account[awake], (day * _DAY_SECONDS + second)[awake]
    in_time = np.argsort(second, kind="stable")
    account, second = account[in_time], second[in_time]

    amount = rng.normal(mean[account], mean[account] / 2)
    negative = np.flatnonzero(amount < 0)
    amount[negative] = rng.uniform(0, 2 * mean[account[negative]])
    merchant = near[first[account] + rng.integers(0, reachable[account])]
    kind = _kinds(spec.accounts, account, rng)
    return Traffic(
        account=account.astype(np.int32),
        merchant=merchant.astype(np.int32),
        amount=np.rint(amount * 100).astype(np.int64),
        timestamp=microseconds(datetime(spec.start.year, spec.start.month, spec.start.day, tzinfo=UTC))
        + second * _MICROSECONDS,
        transaction_type=kind,
        location=_locations(home[account], shop[merchant], kind == _ONLINE, side, rng),
        device=_devices(spec.accounts, account, second / _DAY_SECONDS, rng),
        fraud=np.full(len(account), HONEST, np.int8),
        row=np.arange(len(account)),
    )


def _merchants_near(home: Floats, shop: Floats) -> tuple[Integers, Integers, Integers]:
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


def _kinds(accounts: int, account: Integers, rng: np.random.Generator) -> NDArray[np.int32]:
    """A transaction type for each payment; each account has its own mix of them."""
    mix = np.cumsum(rng.dirichlet(_TYPE_WEIGHTS, accounts), axis=1)
    drawn = rng.random(len(account))
    kind = np.zeros(len(account), np.int32)
    for up_to in mix.T[:-1]:
        kind += drawn > up_to[account]
    return kind


def _locations(
    home: Floats, shop: Floats, online: NDArray[np.bool_], side: float, rng: np.random.Generator
) -> NDArray[np.int32]:
    """The cell of the map where each payment is made: at the merchant's, or online from home, seldom from elsewhere."""
    columns = max(_MAP, int(np.ceil(side / _CELL)))
    x, y = np.where(online[:, np.newaxis], home, shop).T // _CELL
    cell: NDArray[np.int32] = (x * columns + y).astype(np.int32)
    away = np.flatnonzero(online & (rng.random(len(online)) < _AWAY))
    cell[away] = rng.integers(0, columns**2, len(away))
    return cell


def _devices(accounts: int, account: Integers, day: Floats, rng: np.random.Generator) -> NDArray[np.int32]:
    """The device of each payment. An account has one to three, prefers some to others, and replaces each in time."""
    owned = rng.integers(1, _SLOTS, accounts, endpoint=True)
    favourite = np.where(owned == 1, 1.0, rng.uniform(0.5, 0.9, accounts))
    second = np.where(owned == _SLOTS, favourite + 0.7 * (1 - favourite), 1.0)
    kept = rng.uniform(*_DEVICE_DAYS, (accounts, _SLOTS))
    age = rng.uniform(0, kept)
    drawn = rng.random(len(account))
    slot = (drawn > favourite[account]).astype(np.int64) + (drawn > second[account])
    generation = ((day + age[account, slot]) // kept[account, slot]).astype(np.int64)
    number = (account * _SLOTS + slot) * (generation.max(initial=0) + 1) + generation
    _, code = np.unique(number, return_inverse=True)
    return code.astype(np.int32)


def _history(traffic: Traffic, rng: np.random.Generator) -> pl.DataFrame:
    coded = pl.DataFrame({field.name: getattr(traffic, field.name) for field in fields(traffic)})
    delay = np.ceil(rng.beta(2, 2, len(traffic)) * (LABEL_DELAY / timedelta(seconds=1))).astype(np.int64)
    reported = pl.col("timestamp") + pl.Series(delay * _MICROSECONDS)
    is_fraud = pl.col("fraud") != HONEST
    names = {code: name for name, code in CODES.items()}
    return coded.select(
        _ids("T", 9, pl.int_range(pl.len())).alias("transaction_id"),
        _ids("A", 7, pl.col("account")).alias("account_id"),
        _ids("M", 7, pl.col("merchant")).alias("merchant_id"),
        pl.Series("amount", traffic.amount / 100),  # polars' own division by a literal is off by an ulp
        pl.col("timestamp").cast(_INSTANT),
        pl.col("transaction_type").replace_strict(dict(enumerate(TYPES)), return_dtype=pl.String),
        _ids("L", 3, pl.col("location")).alias("location"),
        _ids("D", 7, pl.col("device")).alias("device_id"),
        is_fraud.alias("is_fraud"),
        pl.when(is_fraud).then(reported).cast(_INSTANT).alias("labelled_at"),
        pl.col("fraud").replace_strict(names, default=None, return_dtype=pl.String).alias("fraud_scenario"),
    )


def _ids(prefix: str, digits: int, codes: pl.Expr) -> pl.Expr:
    return pl.lit(prefix) + codes.cast(pl.String).str.zfill(digits)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser("python -m training.simulate", description="Simulate a labelled history.")
    standard = Simulation()
    parser.add_argument("out", type=Path, help="file to write: .parquet or .csv")
    parser.add_argument("--accounts", type=int, default=standard.accounts)
    parser.add_argument("--merchants", type=int, help="default: two an account")
    parser.add_argument("--days", type=int, default=standard.days)
    parser.add_argument("--start", type=_date, default=standard.start, help="first day, such as 2018-04-01")
    parser.add_argument("--rate", type=float, default=standard.rate, help="mean transactions an account makes a day")
    parser.add_argument("--bots", type=_names, default=SCENARIOS, help=f"none, or some of {','.join(SCENARIOS)}")
    parser.add_argument("--intensity", type=float, default=1.0, help="multiplies how many victims the bots take a day")
    parser.add_argument("--seed", type=int, default=standard.seed)
    options = vars(parser.parse_args(arguments))
    out, scenarios = options.pop("out"), options.pop("bots")
    begun = time.perf_counter()
    try:
        check_writable(out)
        spec = Simulation(scenarios=scenarios, **options)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(f"simulating {out.name}", total=STAGES + 1)
            history = simulate(spec, partial(progress.advance, task))
            write(history, out)
            progress.advance(task)
    except VigieError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(_summary(history, spec, out, time.perf_counter() - begun))
    return 0


def _summary(history: pl.DataFrame, spec: Simulation, out: Path, seconds: float) -> str:
    frauds = history.filter("is_fraud")["fraud_scenario"]
    lines = [
        f"{history.height:,} transactions, {frauds.len():,} frauds ({frauds.len() / history.height:.3%})",
        *(f"  {name:<20} {(frauds == name).sum():>9,}" for name in spec.scenarios),
        f"{seconds:.1f} s, {out}, {out.stat().st_size / 1e6:.1f} MB",
    ]
    return "\n".join(lines) + "\n"


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write it as 2018-04-01") from error


def _names(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(name.strip() for name in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
