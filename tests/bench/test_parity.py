"""Parity finds no difference where there is none, and every one where there is."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from bench import parity
from bench.peers.measures import MEASURES
from features import batch
from features.definitions import FEATURES, Aggregate, Entity, Feature
from features.formulas import MEASURES as ARRAYS
from features.history import load
from features.transaction import Label, Transaction
from features.windows import Events
from flows import past, stop
from training.simulate import Simulation, simulate, write

ROOT = Path(__file__).parents[2]
BEGIN = datetime(2018, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def crowded(n: int, seed: int) -> pl.DataFrame:
    """A history file in which much happens at one instant, labels come when they like, and much is missing.

    Instants lie on midnights and a microsecond beside them, so that windows begin and end on events.
    """
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        instant = BEGIN + rng.randrange(60) * DAY + rng.choice([-1, 0, 0, 0, 1]) * timedelta(microseconds=1) + DAY
        wait = rng.choice(
            [None, timedelta(0), timedelta(microseconds=1), 3 * DAY, 7 * DAY, 8 * DAY, 20 * DAY, 50 * DAY]
        )
        fraud = rng.random() < 0.3
        rows.append(
            {
                "transaction_id": f"t{number}",
                "account_id": f"a{rng.randrange(5)}",
                "merchant_id": f"m{rng.randrange(4)}",
                "amount": rng.choice([0.0, -12.5, 0.01, 12.34, 12.35, 9_999_999_999.99, rng.randrange(100_000) / 100]),
                "timestamp": instant,
                "is_fraud": fraud,
                "transaction_type": rng.choice(["online", "card", None]),
                "location": rng.choice(["Paris", "", None]),
                "device_id": rng.choice(["d1", "d2", None]),
                "labelled_at": instant + wait if fraud and wait is not None else None,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, list[str], str]]]:
    """``run(words)`` gives exit status, lines printed, and what was said on stderr."""

    def call(*words: object) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, words)])
        status = parity.main()
        out, err = capfd.readouterr()
        return status, out.splitlines(), err

    yield call
    stop.requested.clear()


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    crowded(1500, 1).write_parquet(tmp_path / "crowd.parquet")
    return tmp_path / "crowd.parquet"


Run = Callable[..., tuple[int, list[str], str]]


def test_a_simulated_history_differs_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    history = simulate(Simulation(accounts=120, days=60, intensity=20.0))
    write(history, path)
    command = [sys.executable, "-m", "bench.parity", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    values = len(history) * len(FEATURES)
    size = rf"\({len(history):,} rows x {len(FEATURES)} features\)"
    assert re.match(rf"0 of {values:,} values differ {size}; stream [\d,]+ rows/s, batch [\d,]+ rows/s, peak", line)


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_ties_late_labels_and_missing_values_differ_nowhere(seed: int, tmp_path: Path, run: Run) -> None:
    history = crowded(1500, seed)
    late = history.filter(pl.col("labelled_at") > pl.col("timestamp") + timedelta(days=7))
    assert len(late) > 100
    assert history["timestamp"].n_unique() < 200
    history.write_parquet(tmp_path / "crowd.parquet")
    status, lines, _ = run(tmp_path / "crowd.parquet")
    assert lines[:-1] == []
    assert lines[-1].startswith(f"0 of {1500 * len(FEATURES):,} values differ")
    assert status == 0


def test_every_value_that_the_batch_gets_wrong_is_reported(
    crowd: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = batch.compute
    broken = [FEATURES[0].name, next(f.name for f in FEATURES if f.aggregate is Aggregate.COUNT)]  # never missing

    def wrong(history: pl.DataFrame) -> pl.DataFrame:
        one_bit = pl.Series([np.nextafter(np.float32(1), np.float32(2))] * len(history), dtype=pl.Float32)
        row = pl.int_range(len(history))
        return right(history).with_columns(
            pl.when(row == 7).then(pl.col(broken[0]) * one_bit + one_bit).otherwise(broken[0]).alias(broken[0]),
            pl.when(row.is_in([11, 1200])).then(float("nan")).otherwise(broken[1]).cast(pl.Float32).alias(broken[1]),
        )

    monkeypatch.setattr(batch, "compute", wrong)
    status, lines, _ = run(crowd)
    history = load(crowd)
    assert status == 1
    assert len(lines) == 3
    assert lines[0].startswith(f"{broken[0]}: 1 differ, first in row 7 (transaction {history['transaction_id'][7]}): ")
    assert lines[1].startswith(
        f"{broken[1]}: 2 differ, first in row 11 (transaction {history['transaction_id'][11]}): "
    )
    assert lines[1].endswith("batch nan")
    assert lines[2].startswith("3 of ")


def test_one_bit_is_a_difference(crowd: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    right = batch.compute

    def wrong(history: pl.DataFrame) -> pl.DataFrame:
        values = right(history).to_numpy().copy()
        bits = values.view(np.uint32)
        bits[5, 0] ^= 1
        return pl.DataFrame(values, schema=[f.name for f in FEATURES])

    monkeypatch.setattr(batch, "compute", wrong)
    status, lines, _ = run(crowd)
    assert (status, len(lines)) == (1, 2)
    found = re.search(r"stream (\S+), batch (\S+)$", lines[0])
    assert found
    assert found[1] != found[2]  # enough digits to see it


def test_a_transaction_that_the_stream_loses_is_reported(
    crowd: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = past.events_of
    lost = load(crowd)["transaction_id"][-1]  # the last one, so that no other row's windows miss it

    def events(history: pl.DataFrame) -> Iterator[Transaction | Label]:
        return (e for e in right(history) if isinstance(e, Label) or e.transaction_id != lost)

    monkeypatch.setattr(parity, "events_of", events)
    status, lines, _ = run(crowd)
    assert status == 1
    assert lines[0].startswith("amount: 1 differ, first in row 1499 ")
    assert "stream nan" in lines[0]


def test_labels_come_before_what_happens_when_they_become_known() -> None:
    instants = [BEGIN, BEGIN + 7 * DAY, BEGIN + 8 * DAY]
    history = pl.DataFrame(
        {
            "transaction_id": ["t0", "t1", "t2"],
            "account_id": ["a"] * 3,
            "merchant_id": ["m"] * 3,
            "amount": [1, 2, 3],
            "timestamp": pl.Series(instants).dt.cast_time_unit("us"),
            "transaction_type": pl.Series([None] * 3, dtype=pl.String),
            "location": pl.Series([None] * 3, dtype=pl.String),
            "device_id": pl.Series([None] * 3, dtype=pl.String),
            "is_fraud": [True, True, True],
            "labelled_at": pl.Series([None, instants[2], instants[2] + DAY]).dt.cast_time_unit("us"),
        }
    )
    events = list(past.events_of(history))
    told = [(type(event).__name__, event.transaction_id) for event in events]
    assert told == [
        ("Transaction", "t0"),
        ("Label", "t0"),  # by default after a week
        ("Transaction", "t1"),
        ("Label", "t1"),
        ("Transaction", "t2"),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere.parquet"], "nowhere.parquet"),
        (["--columns", "nowhere.toml"], "nowhere.toml"),
        (["--column", "amount"], "'amount' is not name=column"),
    ],
)
def test_what_cannot_be_read_is_one_line(words: list[str], expected: str, crowd: Path, run: Run) -> None:
    status, _, said = run(*([] if words[0].startswith("nowhere") else [crowd]), *words)
    assert status == 2
    assert said.startswith("parity: ")
    assert expected in said
    assert said.count("\n") == 1


# The arithmetic. polars and Python divide, take roots and round in float64 on the same integers. Where an amount is
# within a minor unit of the mean nearly all digits cancel, so that a last bit that differs becomes a first one; and
# elsewhere it would be lost in float32 on most rows but not on all, so float64 is compared.

MEASURED = (Aggregate.COUNT, Aggregate.SUM, Aggregate.MEAN, Aggregate.STD, Aggregate.RATIO, Aggregate.ZSCORE)
ROWS = 300_000
ACCOUNTS = 1_000
Floats = NDArray[np.float64]


class Sums(NamedTuple):
    """[ROWS] what came before each transaction of its account, and its own amount; exact, of any size."""

    n: list[int]
    total: list[int]
    squares: list[int]
    amount: list[int]


def sums(amounts: NDArray[np.int64]) -> Sums:
    found = Sums([], [], [], [])
    for of_account in np.split(amounts, ACCOUNTS):
        own: list[int] = of_account.tolist()
        found.n.extend(range(len(own)))
        found.total.extend(list(accumulate(own, initial=0))[:-1])
        found.squares.extend(list(accumulate((amount * amount for amount in own), initial=0))[:-1])
        found.amount.extend(own)
    return found


def in_python(of: Sums) -> Floats:
    """[ROWS, MEASURED]"""
    return np.array([list(map(MEASURES[aggregate], *of)) for aggregate in MEASURED]).T


def in_arrays(amounts: NDArray[np.int64]) -> Floats:
    """[ROWS, MEASURED], before it becomes float32."""
    accounts = np.repeat(np.arange(ACCOUNTS, dtype=np.uint64), ROWS // ACCOUNTS)
    events = Events(accounts, seconds() * 1_000_000, amounts, reach=DAY // timedelta(microseconds=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([ARRAYS[a](events, Feature(Entity.ACCOUNT, a, DAY)) for a in MEASURED]).T


def seconds() -> NDArray[np.int64]:
    """[ROWS] one transaction a second in each account, all within every window of the next."""
    return np.tile(np.arange(ROWS // ACCOUNTS), ACCOUNTS)


def one_a_second(amounts: NDArray[np.int64]) -> pl.DataFrame:
    """The same as a canonical history."""
    return pl.DataFrame(
        {
            "account_id": pl.Series(np.repeat(np.arange(ACCOUNTS), ROWS // ACCOUNTS)).cast(pl.String),
            "amount": amounts,
            "timestamp": pl.Series(seconds() * 1_000_000).cast(pl.Datetime("us", "UTC")),
            "is_fraud": np.zeros(ROWS, bool),
            "labelled_at": pl.Series([None] * ROWS, dtype=pl.Datetime("us", "UTC")),
        }
    )


def differing(left: Floats | NDArray[np.float32], right: Floats | NDArray[np.float32]) -> dict[str, int]:
    """How many values of each measure differ."""
    differ = ~((left == right) | (np.isnan(left) & np.isnan(right)))
    return {name: int(count) for name, count in zip(MEASURED, differ.sum(axis=0), strict=True) if count}


@pytest.mark.parametrize(("largest", "spread"), [(100_000, 1), (100_000, 3_000), (10**12 - 10, 1)])
def test_arrays_compute_as_python_does_to_the_last_bit(largest: int, spread: int) -> None:
    rng = np.random.default_rng(spread)
    base = rng.integers(-largest, largest, ACCOUNTS)
    amounts = np.repeat(base, ROWS // ACCOUNTS) + rng.integers(-spread, spread, ROWS, endpoint=True)
    expected = in_python(sums(amounts))
    assert np.isfinite(expected).mean(axis=0).min() > 0.9  # there is something to compare
    assert differing(in_arrays(amounts), expected) == {}
    features = [Feature(Entity.ACCOUNT, aggregate, DAY) for aggregate in MEASURED]
    whole = batch.compute(one_a_second(amounts), features).to_numpy()
    assert differing(whole, expected.astype(np.float32)) == {}


def test_polars_and_arrays_divide_as_python_does() -> None:
    amounts = np.random.default_rng(1).integers(-(10**12), 10**12, ROWS)
    history = pl.DataFrame({"amount": amounts, "hundred": np.full(ROWS, 100.0)})
    own = history.select(batch._own(Feature(Entity.TRANSACTION, Aggregate.AMOUNT))).to_series()
    assert own.to_list() == [amount / 100.0 for amount in amounts.tolist()]
    gaps = np.abs(amounts) + 1
    pairs = np.repeat(np.arange(ROWS, dtype=np.uint64), 2)
    instants = np.column_stack([np.zeros_like(gaps), gaps]).ravel()
    since = Feature(Entity.ACCOUNT, Aggregate.SINCE, 30 * DAY)
    found = ARRAYS[Aggregate.SINCE](Events(pairs, instants, instants, reach=since.bounds[1]), since)[1::2]
    assert found.tolist() == [gap / 1e6 for gap in gaps.tolist()]
