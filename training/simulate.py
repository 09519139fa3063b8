"""A labelled history, simulated: the honest payments of ``training.population``, and frauds by ``features.bots``.

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
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from features.bots import CODES, HONEST, SCENARIOS, Bot, Traffic, inject, scaled
from features.definitions import LABEL_DELAY
from features.errors import InvalidSetting, VigieError
from features.history import load
from training.population import ONLINE, TYPES, Population, honest

MERCHANTS_AN_ACCOUNT: Final = 2  # as in the Handbook: 10,000 for 5,000
STAGES: Final = 3
MAX_ROWS: Final = 100_000_000
MAX_INTENSITY: Final = 10_000
_MICROSECONDS: Final = 1_000_000
_ROW_GROUP: Final = 131_072
_INSTANT: Final = pl.Datetime("us", "UTC")


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
    scripts = bots(spec)
    rng = np.random.default_rng(spec.seed)
    _, payments = _honest(spec, rng)
    if not len(payments):
        raise InvalidSetting(f"no payment came of {spec}; choose more accounts, days, or a higher rate")
    advance()
    traffic = inject(payments, scripts, rng)
    advance()
    history = _history(traffic, rng)
    advance()
    return history


def population(spec: Simulation) -> Population:
    """The accounts of ``simulate(spec)``; account 12 is the ``account_id`` A0000012, and so on for the other ids."""
    who, _ = _honest(spec, np.random.default_rng(spec.seed))
    return who


def bots(spec: Simulation) -> list[Bot]:
    """The bots that ``simulate(spec)`` runs, in their order. Raises ``InvalidSetting``."""
    return scaled(spec.scenarios, spec.accounts, _merchants(spec), intensity=spec.intensity, online=ONLINE)


def unreported(age: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of frauds that are not reported yet at an age, in units of ``LABEL_DELAY``: 1 - Beta(2, 2)."""
    age = np.clip(age, 0, 1)
    return 1 - age**2 * (3 - 2 * age)


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


def canonical(raw: pl.DataFrame) -> pl.DataFrame:
    """What ``features.history.load`` makes of the file of a history ``raw``. Raises ``InvalidHistory``."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "history.parquet"
        write(raw, file)
        return load(file)


def check_writable(out: Path) -> None:
    """Raises ``InvalidSetting`` for a file of another kind than .parquet and .csv, and for a folder."""
    if out.suffix not in (".parquet", ".csv"):
        raise InvalidSetting(f"{out} is neither .parquet nor .csv; end the file's name with one of them")
    if out.is_dir():
        raise InvalidSetting(f"{out} is a folder; name a file in it")


def _honest(spec: Simulation, rng: np.random.Generator) -> tuple[Population, Traffic]:
    return honest(
        accounts=spec.accounts,
        merchants=_merchants(spec),
        days=spec.days,
        start=spec.start,
        mean_rate=spec.rate,
        rng=rng,
    )


def _merchants(spec: Simulation) -> int:
    return spec.merchants or MERCHANTS_AN_ACCOUNT * spec.accounts


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
    parser.add_argument("out", type=Path, help="file to write: .parquet or .csv")
    add_options(parser, Simulation())
    options = parser.parse_args(arguments)
    out: Path = options.out
    begun = time.perf_counter()
    try:
        check_writable(out)
        spec = chosen(options)
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


def add_options(parser: argparse.ArgumentParser, standard: Simulation) -> None:
    """Adds an option for each field of a ``Simulation``; ``standard`` has the defaults."""
    parser.add_argument("--accounts", type=int, default=standard.accounts)
    parser.add_argument("--merchants", type=int, help="default: two an account")
    parser.add_argument("--days", type=int, default=standard.days)
    parser.add_argument("--start", type=_date, default=standard.start, help="first day, such as 2018-04-01")
    parser.add_argument("--rate", type=float, default=standard.rate, help="mean transactions an account makes a day")
    parser.add_argument(
        "--bots", type=_names, default=standard.scenarios, help=f"none, or some of {','.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--intensity", type=float, default=standard.intensity, help="multiplies how many victims the bots take a day"
    )
    parser.add_argument("--seed", type=int, default=standard.seed)


def chosen(options: argparse.Namespace) -> Simulation:
    """What ``add_options`` asked for. Raises ``InvalidSetting``."""
    given = {field.name: getattr(options, field.name) for field in fields(Simulation) if field.name != "scenarios"}
    return Simulation(scenarios=options.bots, **given)


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
