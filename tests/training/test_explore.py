from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.training.evaluations import history
from training.explore import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "history.parquet"
    history(rows=800).with_columns(pl.col("amount") / 100).write_parquet(path)
    return path


def test_a_history_becomes_a_page(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "page.html"
    assert main([str(file), "--out", str(out)]) == 0
    assert "merchant_fraud_ratio_7d_delay_7d" in out.read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{out}\n"


def test_columns_can_have_other_names(file: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.csv"
    pl.read_parquet(file).rename({"amount": "TX_AMOUNT"}).write_csv(renamed)
    assert main([str(renamed), "--column", "amount=TX_AMOUNT", "--out", str(tmp_path / "page.html")]) == 0


def test_an_unusable_history_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing.parquet")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "nothing.parquet" in error


def test_a_report_that_cannot_be_written_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--out", str(file / "page.html")]) == 2
    assert "give a path that can be written" in capsys.readouterr().err
