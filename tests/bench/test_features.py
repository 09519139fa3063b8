"""The feature benchmark measures what it says, and finds values that differ."""

from __future__ import annotations

import os
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from bench import features as bench
from bench import rolling
from features.definitions import FEATURES, OF_LABELS, Aggregate
from features.errors import InvalidSetting
from training.simulate import Simulation, simulate, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.parquet"
    write(simulate(Simulation(accounts=30, days=60, intensity=30.0)), path)
    return path


def options(**changed: object) -> Namespace:
    return Namespace(**{"rows": None, "columns": None, "column": [], **changed})


@pytest.fixture
def folder(data: Path, tmp_path: Path) -> Path:
    bench.prepare(data, options(), tmp_path)
    return tmp_path


def test_pandas_and_the_batch_agree_and_what_does_not_is_found(folder: Path) -> None:
    for way in (bench.SAME, bench.PANDAS):
        measured = bench.measure(way, folder)
        assert measured.seconds > 0
        assert measured.peak >= measured.before > 50
    rows, same = len(pl.read_parquet(folder / "history.parquet")), bench.chosen(folder)
    of_frauds = {Aggregate.FRAUD_COUNT, Aggregate.FRAUD_RATIO}
    assert {f.aggregate for f in same} == {Aggregate.COUNT, Aggregate.SUM, Aggregate.MEAN, Aggregate.STD} | of_frauds
    compared, left_out, found = bench.disagreements(folder)
    assert compared + left_out == rows * len(same)
    assert compared > 0.9 * rows * len(same)
    assert found == {}

    path = folder / f"{bench.PANDAS}.parquet"
    values = pl.read_parquet(path)
    count, mean = "merchant_fraud_count_30d_delay_7d", "account_amount_mean_7d"
    assert values[count].max() > 1  # type: ignore[operator]  # polars says any literal
    wrong = pl.when(pl.int_range(pl.len()) % 2 == 0)
    values.with_columns(pl.col(count) + 1, wrong.then(pl.col(mean) * 1.001).otherwise(mean)).write_parquet(path)
    found = bench.disagreements(folder)[2]
    assert set(found) == {count, mean}
    assert 0 < found[mean] < found[count] <= rows


def test_features_of_labels_that_come_late_are_left_out(folder: Path) -> None:
    history = pl.read_parquet(folder / "history.parquet")
    late = history.with_columns(labelled_at=pl.col("timestamp") + timedelta(days=7, microseconds=1))
    left = {f.aggregate for f in rolling.expressible(late, FEATURES)}
    assert not left & OF_LABELS
    assert Aggregate.COUNT in left


def test_rows_are_the_first_ones_or_so_many_simulated(data: Path, tmp_path: Path) -> None:
    assert bench.prepare(data, options(rows=500), tmp_path) == 500
    first = pl.read_parquet(tmp_path / "history.parquet")["transaction_id"]
    assert first.equals(pl.read_parquet(data)["transaction_id"].head(500))
    assert bench.prepare(None, options(rows=3000), tmp_path) == 3000
    with pytest.raises(InvalidSetting, match="--rows 1,000,000"):
        bench.prepare(data, options(rows=1_000_000), tmp_path)


def test_a_run_has_a_process_of_its_own_whose_death_is_told() -> None:
    assert bench.alone(os.getpid) != os.getpid()
    with pytest.raises(InvalidSetting, match="fewer --rows"):
        bench.alone(os._exit, 1)


def test_the_table_has_medians_and_a_ratio(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    took = {
        bench.WHOLE: iter([3.0, 1.0, 2.0]),
        bench.SAME: iter([1.0, 1.5, 9.0]),
        bench.PANDAS: iter([60.0, 1.0, 30.0]),
    }
    measure = bench.measure

    def staged(way: str, folder: Path) -> bench.Measured:
        return measure(way, folder)._replace(seconds=next(took[way]))

    monkeypatch.setattr(bench, "alone", lambda function, *words: function(*words))
    monkeypatch.setattr(bench, "measure", staged)
    monkeypatch.setattr("sys.argv", ["features", str(data), "--rows", "1000", "--runs", "3"])
    assert bench.main() == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {words[0]: words for words in ([cell.strip() for cell in line.split("│")[1:-1]] for line in lines) if words}
    assert cells[bench.WHOLE][1:4] == [str(len(FEATURES)), "2.00", "1.00-3.00"]
    assert cells[bench.WHOLE][5] == "500"
    assert (cells[bench.SAME][2], cells[bench.PANDAS][2], cells[bench.PANDAS][-1]) == ("1.50", "30.00", "20.0")
