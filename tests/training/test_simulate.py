from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.bots import SCENARIOS
from features.errors import InvalidSetting
from features.history import load
from training.population import ONLINE, TYPES, merchants_near
from training.simulate import MAX_ROWS, Simulation, main, population, simulate, unreported, write

SPEC = Simulation(accounts=2_500, days=90, seed=11)
SMALL = Simulation(accounts=200, days=20, seed=3)
# Amounts of the honest transactions that the Handbook published (1,739,474 of them).
HANDBOOK_AMOUNTS = {0.05: 5.99, 0.25: 20.94, 0.5: 44.49, 0.75: 76.63, 0.95: 129.72, 0.99: 167.04}


@pytest.fixture(scope="module")
def history() -> pl.DataFrame:
    return simulate(SPEC)


@pytest.fixture(scope="module")
def honest(history: pl.DataFrame) -> pl.DataFrame:
    return history.filter(~pl.col("is_fraud"))


def normal(z: float) -> float:
    """The standard normal distribution function."""
    return math.erfc(-z / math.sqrt(2)) / 2


def test_the_frame_is_what_a_history_file_holds(history: pl.DataFrame) -> None:
    instant = pl.Datetime("us", "UTC")
    assert dict(history.schema) == {
        "transaction_id": pl.String(),
        "account_id": pl.String(),
        "merchant_id": pl.String(),
        "amount": pl.Float64(),
        "timestamp": instant,
        "transaction_type": pl.String(),
        "location": pl.String(),
        "device_id": pl.String(),
        "is_fraud": pl.Boolean(),
        "labelled_at": instant,
        "fraud_scenario": pl.String(),
    }
    assert history.drop("labelled_at", "fraud_scenario").null_count().sum_horizontal().item() == 0
    assert history["timestamp"].is_sorted()
    assert history["transaction_id"].is_sorted()
    assert history["transaction_id"].is_unique().all()
    assert history["account_id"].str.contains(r"^A\d{7}$").all()
    assert history["merchant_id"].str.contains(r"^M\d{7}$").all()
    assert set(history["transaction_type"]) == set(TYPES)
    assert (history["amount"] == history["amount"].round(2)).all()
    assert history["amount"].is_between(0, 10_000).all()


def test_labels_come_with_frauds_within_seven_days(history: pl.DataFrame) -> None:
    for column in ("labelled_at", "fraud_scenario"):
        assert (history[column].is_not_null() == history["is_fraud"]).all()
    delay = history.select(pl.col("labelled_at") - pl.col("timestamp")).to_series().drop_nulls()
    assert delay.is_between(timedelta(0), timedelta(days=7)).all()
    assert delay.n_unique() > 1_000


def test_transactions_a_day_follow_the_handbook(honest: pl.DataFrame) -> None:
    awake = normal(43_200 / 20_000) - normal(-43_200 / 20_000)
    expected = 2.0 * SPEC.accounts * SPEC.days * awake
    # The mean of U(0, 4) over 2,500 accounts has a standard error of 1.2 %.
    assert honest.height == pytest.approx(expected, rel=0.05)
    by_account = honest.group_by("account_id").len()["len"] / SPEC.days / awake
    quartiles = [by_account.quantile(q) for q in (0.25, 0.5, 0.75)]
    assert quartiles == pytest.approx([1.0, 2.0, 3.0], abs=0.15)
    assert honest["timestamp"].dt.date().n_unique() == SPEC.days
    assert honest["timestamp"].min() >= datetime.fromisoformat("2018-04-01T00:00:00Z")  # type: ignore[operator]


def test_hours_follow_the_handbook(honest: pl.DataFrame) -> None:
    hours = honest["timestamp"].dt.hour().value_counts().sort("timestamp")["count"].to_numpy()
    edges = np.array([normal((3_600 * hour - 43_200) / 20_000) for hour in range(25)])
    expected = np.diff(edges) / (edges[-1] - edges[0]) * hours.sum()
    assert np.all(np.abs(hours - expected) < 5 * np.sqrt(expected) + 0.01 * expected)


@pytest.mark.parametrize(("quantile", "amount"), HANDBOOK_AMOUNTS.items())
def test_amounts_follow_the_handbook(honest: pl.DataFrame, quantile: float, amount: float) -> None:
    # Which accounts spend how much differs between draws: seeds move the median by some 3 %.
    assert honest["amount"].quantile(quantile) == pytest.approx(amount, rel=0.08)


def test_spread_of_an_accounts_amounts_is_about_half_its_mean(honest: pl.DataFrame) -> None:
    of_account = honest.group_by("account_id").agg(pl.len(), ratio=pl.col("amount").std() / pl.col("amount").mean())
    # Amounts in units of their mean: N(1, 1/2) where positive, else U(0, 2). Frauds took the few above 220.
    density = math.exp(-2.0) / math.sqrt(2 * math.pi)
    negative = normal(-2.0)
    mean = (1 - negative) + density / 2 + negative
    square = 1.25 * (1 - negative) + density / 2 + negative * 4 / 3
    expected = math.sqrt(square - mean**2) / mean
    assert of_account.filter(pl.col("len") > 50)["ratio"].median() == pytest.approx(expected, rel=0.02)


def test_frauds_have_the_handbooks_share_by_scenario(history: pl.DataFrame) -> None:
    shares = {name: (history["fraud_scenario"] == name).sum() / history.height for name in SCENARIOS}
    day = np.arange(1, SPEC.days + 1)
    compromised = 1 - (1 - 2 / 10_000) ** np.minimum(day, 28)
    stolen = np.minimum(day, 14) * 3 / 5_000 / 3
    means = np.linspace(5, 100, 1_000)
    spikes = [1 - normal((220 - mean) / (mean / 2)) for mean in means]
    assert shares["merchant_compromise"] == pytest.approx(compromised.mean(), rel=0.15)
    assert shares["card_theft"] == pytest.approx(stolen.mean(), rel=0.25)
    assert shares["amount_spike"] == pytest.approx(float(np.mean(spikes)), rel=0.25)
    # One account in 5,000 a day, 5.5 payments each
    assert shares["account_takeover"] == pytest.approx(5.5 / 5_000 / 1.938, rel=0.25)
    assert 0.006 < history["is_fraud"].mean() < 0.010  # type: ignore[operator]


def test_every_fraud_shows_what_its_bot_does(history: pl.DataFrame) -> None:
    assert history.filter(fraud_scenario="amount_spike")["amount"].min() > 220  # type: ignore[operator]
    assert history.filter(~pl.col("is_fraud"))["amount"].max() <= 220  # type: ignore[operator]
    stolen = history.filter(fraud_scenario="card_theft")["amount"]
    assert ((stolen * 100).round() % 5 == 0).all()
    takeovers = history.filter(fraud_scenario="account_takeover")
    assert set(takeovers["transaction_type"]) == {"online"}
    others = history.filter(pl.col("fraud_scenario").ne_missing("account_takeover"))
    for column in ("device_id", "location", "merchant_id"):
        pairs = ["account_id", column]
        assert takeovers.join(others, on=pairs, how="semi").height == 0
    bursts = takeovers.group_by("account_id").agg(pl.len(), span=pl.col("timestamp").max() - pl.col("timestamp").min())
    assert bursts["len"].is_between(3, 8).all()
    assert (bursts["span"] <= timedelta(hours=1)).all()


def test_compromised_merchants_are_frauds_throughout_28_days(history: pl.DataFrame) -> None:
    daily = history.filter(pl.col("fraud_scenario").is_null() | (pl.col("fraud_scenario") == "merchant_compromise"))
    days = daily.group_by("merchant_id", pl.col("timestamp").dt.date()).agg(
        pl.col("is_fraud").any().alias("some"), pl.col("is_fraud").all().alias("all")
    )
    assert (days["some"] == days["all"]).all()
    spans = days.filter("some").group_by("merchant_id").agg(span=pl.col("timestamp").max() - pl.col("timestamp").min())
    assert spans["span"].quantile(0.9) <= timedelta(days=27)  # type: ignore[operator]


def test_merchants_lie_within_the_radius_of_home(history: pl.DataFrame) -> None:
    paid = history.filter(pl.col("fraud_scenario").ne_missing("account_takeover"))
    # Merchants within 5 of home span at most two neighbouring cells of 10 in each direction.
    cells = paid.filter(pl.col("transaction_type") != "online").select(
        "account_id", cell=pl.col("location").str.slice(1).cast(pl.Int64)
    )
    for axis in (pl.col("cell") // 10, pl.col("cell") % 10):
        spread = cells.group_by("account_id").agg(axis.max() - axis.min())["cell"]
        assert spread.max() <= 1  # type: ignore[operator]
    # 25 pi merchants to choose from inland, fewer at the edge; the Handbook's accounts paid 67 of them in 183 days.
    frequent = paid.group_by("account_id").agg(pl.len(), pl.col("merchant_id").n_unique()).filter(pl.col("len") > 250)
    assert frequent["merchant_id"].mean() == pytest.approx(70, rel=0.1)


def test_merchants_near_are_those_of_a_search_through_all() -> None:
    rng = np.random.default_rng(0)
    home, shop = rng.uniform(0, 30, (50, 2)), rng.uniform(0, 30, (300, 2))
    near, first, count = merchants_near(home, shop)
    for account, place in enumerate(home):
        found = near[first[account] : first[account] + count[account]]
        assert set(found.tolist()) == set(np.flatnonzero(np.linalg.norm(shop - place, axis=1) < 5).tolist())


def test_accounts_have_habits(honest: pl.DataFrame) -> None:
    busy = honest.filter(pl.len().over("account_id") > 100)
    devices = busy.group_by("account_id").agg(pl.col("device_id").n_unique())["device_id"]
    assert devices.is_between(1, 6).all()
    assert set(devices) >= {1, 2, 3}
    assert honest.group_by("device_id").agg(pl.col("account_id").n_unique())["account_id"].max() == 1
    # Some devices are replaced: they occur for the first time long after the account does.
    first = honest.with_columns(known=pl.col("timestamp").min().over("account_id")).group_by("account_id", "device_id")
    waited = first.agg(wait=(pl.col("timestamp").min() - pl.col("known").first()))["wait"]
    assert 0.01 < (waited > timedelta(days=45)).mean() < 0.4  # type: ignore[operator]
    # Each account has its own mix of types.
    mixes = busy.group_by("account_id").agg((pl.col("transaction_type") == "online").mean().alias("online"))["online"]
    assert mixes.std() > 0.08  # type: ignore[operator]
    # Online payments come from home but for about one in a hundred.
    online = busy.filter(transaction_type="online")
    away = online.filter(pl.col("location") != pl.col("location").mode().first().over("account_id"))
    assert away.height / online.height == pytest.approx(0.01, rel=0.25)


def test_the_population_is_the_one_that_paid(history: pl.DataFrame, honest: pl.DataFrame) -> None:
    who = population(SPEC)
    coded = honest.with_columns(pl.col("account_id", "merchant_id").str.slice(1).cast(pl.Int64))
    paid = (
        coded.filter(pl.len().over("account_id") > 100)
        .group_by("account_id")
        .agg(
            pl.len(),
            mean=pl.col("amount").mean(),
            online=(pl.col("transaction_type") == TYPES[ONLINE]).mean(),
            merchants=pl.col("merchant_id").unique(),
        )
    )
    accounts = paid["account_id"].to_numpy()
    # Each mean has a standard error of a twentieth or less; spikes took away what is above 220.
    assert paid["mean"].to_numpy() / who.mean[accounts] == pytest.approx(1.0, abs=0.25)
    assert paid["online"].to_numpy() == pytest.approx(who.mix[accounts, ONLINE], abs=0.2)
    awake = normal(43_200 / 20_000) - normal(-43_200 / 20_000)
    expected = who.rate[accounts] * SPEC.days * awake
    assert (np.abs(paid["len"].to_numpy() - expected) < 5 * np.sqrt(expected) + 0.1 * expected).all()
    for account, merchants in paid.select("account_id", "merchants").head(50).iter_rows():
        near = who.near[who.first[account] : who.first[account] + who.reachable[account]]
        assert set(merchants) <= set(near.tolist())
    assert who.devices.sum(axis=1) == pytest.approx(1.0)
    # How long the frauds took to be reported is what the function says of them.
    delay = history.filter("is_fraud").select(pl.col("labelled_at") - pl.col("timestamp")).to_series() / timedelta(
        days=7
    )
    for age in (0.2, 0.5, 0.8):
        assert (delay > age).mean() == pytest.approx(unreported(np.array([age]))[0], abs=0.04)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_same_options_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    """Twice in this process, and once through the command line with another number of threads."""
    files = [tmp_path / f"{name}{suffix}" for name in ("one", "two", "seed", "command")]
    for out, seed in zip(files[:3], (3, 3, 4), strict=True):
        write(simulate(Simulation(accounts=200, days=20, seed=seed)), out)
    command = [sys.executable, "-m", "training.simulate", str(files[3]), "--accounts=200", "--days=20", "--seed=3"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, env={**os.environ, "POLARS_MAX_THREADS": "1"}, cwd=root, check=True, capture_output=True, text=True
    )
    one, two, other, command_line = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert one == two == command_line
    assert one != other
    assert "card_theft" in done.stdout


def test_both_kinds_of_file_load_as_the_same_history(tmp_path: Path) -> None:
    history = simulate(SMALL)
    for name in ("history.parquet", "deep/folder/history.csv"):
        write(history, tmp_path / name)
    loaded = load(tmp_path / "history.parquet")
    assert loaded.equals(load(tmp_path / "deep/folder/history.csv"))
    minor = history.with_columns((pl.col("amount") * 100).round().cast(pl.Int64))
    assert loaded.select(history.columns).equals(minor)
    assert not list(tmp_path.glob("**/.*"))


def test_options_shape_the_history() -> None:
    spec = Simulation(accounts=300, merchants=50, days=5, start=date(2024, 2, 27), rate=6.0, scenarios=(), seed=1)
    history = simulate(spec)
    assert history.height == pytest.approx(300 * 5 * 6, rel=0.15)
    assert history["account_id"].n_unique() == pytest.approx(300, abs=15)
    assert history["merchant_id"].n_unique() == 50
    assert sorted(set(history["timestamp"].dt.date())) == [date(2024, 2, 27) + timedelta(days=d) for d in range(5)]
    assert not history["is_fraud"].any()
    only = simulate(Simulation(accounts=300, days=5, scenarios=("card_theft",), intensity=20.0))
    assert set(only["fraud_scenario"].drop_nulls()) == {"card_theft"}
    assert simulate(SMALL)["merchant_id"].max() <= "M0000399"  # type: ignore[operator]


def test_the_command_prints_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "history.parquet"
    assert main([str(out), "--accounts", "500", "--days", "40", "--seed", "7"]) == 0
    printed = capsys.readouterr().out
    history = load(out)
    assert f"{history.height:,} transactions, {history['is_fraud'].sum():,} frauds" in printed
    for name in SCENARIOS:
        count = (history["fraud_scenario"] == name).sum()
        assert count > 0
        assert f"{name:<20} {count:>9,}\n" in printed
    assert str(out) in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accounts", "0"], "accounts is 0; give a whole number of at least 1"),
        (["--merchants", "-5"], "merchants is -5"),
        (["--days", "0"], "days is 0"),
        (["--days", "3000000"], "leave the years 1970 to 9999"),
        (["--start", "1969-12-31"], "leave the years 1970 to 9999"),
        (["--rate", "nan"], "rate is nan"),
        (["--intensity", "-1"], "intensity is -1.0"),
        (["--seed", "-1"], "seed is -1"),
        (["--accounts", "1000000"], f"more than {MAX_ROWS:,}; choose fewer"),
        (["--bots", "card_theft,skimming"], "no fraud bot is called skimming; there are amount_spike"),
        (["--accounts", "1", "--days", "1", "--rate", "1e-9"], "no payment came of"),
    ],
)
def test_unusable_options_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    out = tmp_path / "history.parquet"
    assert main([str(out), *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("simulating")]
    assert len([line for line in lines if line]) == 1
    assert message in lines[-1]
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("history.json", "is neither .parquet nor .csv"),
        ("folder.csv", "is a folder"),
        ("file/history.csv", "cannot be written"),
    ],
)
def test_files_that_cannot_be_written_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting, match=message):
        write(simulate(SMALL), tmp_path / name)


def test_a_wrong_date_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "history.csv"), "--start", "April"])
    assert stopped.value.code == 2
    assert "'April' is not a date; write it as 2018-04-01" in capsys.readouterr().err
