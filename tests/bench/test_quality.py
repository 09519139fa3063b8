"""The whole command on a small history, and what is made of the figures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from bench.contest import BOOK, CHAMPION, OUR_DAYS, PERFECT, TO_BEAT, Contestant, Measured, our_models
from bench.outcome import collect, differences
from bench.published import METRICS, Figures, PublishedRow, published
from bench.quality import main
from bench.quality_tables import WIDTH, table_of
from features.definitions import LABEL_DELAY
from features.errors import InvalidHistory
from features.history import load
from tests.bench.small import contest
from training.figures import Table
from training.figures_quality import quality_parts
from training.fit import FOREST_PARAMETERS, XGBOOST_PARAMETERS
from training.simulate import Simulation, simulate, write

STARTS = [datetime(2024, 3, day, tzinfo=UTC) for day in (4, 11, 18)]


def test_the_command_prints_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for parameters in (XGBOOST_PARAMETERS, FOREST_PARAMETERS):  # quick, and good enough for a table
        monkeypatch.setitem(parameters, "n_estimators", 5)
    file, out = tmp_path / "history.parquet", tmp_path / "made" / "quality.json"
    write(simulate(Simulation(accounts=100, days=36, intensity=4)), file)
    assert main([str(file), "--out", str(out), "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert f"our {CHAMPION} less {TO_BEAT}" in printed
    assert "No validation week fits" in printed
    assert "…" not in printed
    assert "published" not in printed.split("Book's rows")[0]
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["history"]["handbook"] is False
    assert content["blocks"]["validation"] is None
    test = content["blocks"]["test"]
    assert test["weeks"] == ["2018-04-30"]
    rows = {(row["model"], row["learns"]): row for row in test["rows"]}
    assert {(CHAMPION, "7 days"), (CHAMPION, OUR_DAYS), (TO_BEAT, OUR_DAYS), (PERFECT, "-")} <= set(rows)
    for row in test["rows"]:
        assert set(row["figures"]) == set(METRICS)
        assert all(0 <= value <= 1 for figure in row["figures"].values() for value in figure["weeks"])
        assert row["published"] == {}
    ours, theirs = rows[CHAMPION, OUR_DAYS], rows[TO_BEAT, OUR_DAYS]
    assert ours["fit_seconds"] > 0 < ours["row_microseconds"]
    for found in content["ours_less_baseline"]["test"]:
        metric = found["metric"]
        assert found["mean"] == pytest.approx(ours["figures"][metric]["mean"] - theirs["figures"][metric]["mean"])
    compared, by_week, _ = quality_parts(out, load(file), LABEL_DELAY)
    assert "The features have changed" not in compared.reading
    assert isinstance(compared, Table)
    assert compared.rows[compared.emphasis or 0][0] == CHAMPION
    assert f"The champion, marked, beside {TO_BEAT} ({BOOK})" in compared.reading
    assert isinstance(by_week, Table)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.parquet"], "none.parquet"),
        (["--simulated-days", "34", "--simulated-accounts", "50"], "too short for one test week"),
        (["--simulated-accounts", "0"], "accounts is 0; give"),
        (["--seed", "-1"], "--seed -1 must be"),
        (["--label-delay", "0", "--simulated-accounts", "50", "--simulated-days", "40"], "the protocol goes by whole"),
        (["--out", "."], "--out . is a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not out


def test_too_few_frauds_are_told_with_the_week_that_has_them() -> None:
    honest = contest().history.with_columns(is_fraud=pl.lit(value=False))
    start = contest().weeks.test[0]
    with pytest.raises(InvalidHistory, match=rf"from 7 days for the test week from {start:%Y-%m-%d}, .*; bring a "):
        our_models(replace(contest(), history=honest), start, 7)


def measured(value: float) -> Measured:
    return Measured(dict.fromkeys(METRICS, value))


def test_differences_are_taken_week_by_week() -> None:
    ours, theirs = [0.5, 0.7, 0.6], [0.4, 0.4, 0.7]

    def judge(start: datetime) -> dict[Contestant, Measured]:
        week = STARTS.index(start)
        return {
            Contestant(CHAMPION, "ours", OUR_DAYS): measured(ours[week]),
            Contestant(TO_BEAT, BOOK, OUR_DAYS): measured(theirs[week]),
        }

    steps: list[None] = []
    block = collect("t", STARTS, [judge], published=[], part="test", advance=lambda: steps.append(None))
    assert len(steps) == 3
    for found in differences(block):
        assert found.by_week == pytest.approx([0.1, 0.3, -0.1])
        assert (found.mean, found.deviation) == pytest.approx((0.1, (0.08 / 3) ** 0.5))
        assert (found.wins, found.losses) == (2, 1)


def test_published_figures_stand_beside_the_model_that_reproduces_them() -> None:
    def judge(start: datetime) -> dict[Contestant, Measured]:
        return {Contestant("forest", BOOK, "7 days"): measured(start.day / 100)}

    figures: Figures = dict.fromkeys(METRICS, (0.5, 0.1))
    shown = [
        PublishedRow("forest", "a", "four_weeks", "random_forest", test=figures),
        PublishedRow("net", "a", "four_weeks", test=figures),
        PublishedRow("not tested", "a", "four_weeks", validation=figures),
    ]
    block = collect("t", STARTS, [judge], published=shown, part="test", advance=lambda: None)
    assert [(row.contestant.model, len(row.weeks), bool(row.published)) for row in block.rows] == [
        ("forest", 3, True),
        ("net", 0, True),
    ]


def test_no_figure_of_the_handbooks_table_is_cut_short() -> None:
    def judge(start: datetime) -> dict[Contestant, Measured]:  # noqa: ARG001 - a judge is asked about a week
        measure = Measured(dict.fromkeys(METRICS, 0.12345), fit_seconds=1234.5, row_microseconds=123.4)
        return {Contestant(row.model, BOOK, OUR_DAYS): measure for row in published().rows}

    block = collect("t", STARTS, [judge], published=published().rows, part="test", advance=lambda: None)
    console = Console(width=WIDTH, file=io.StringIO())
    with console.capture() as printed:
        console.print(table_of(block, published=True))
    assert "0.1235 ±0.0000" in printed.get()
    assert "…" not in printed.get()
