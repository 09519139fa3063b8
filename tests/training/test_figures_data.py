from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.evaluations import START, history
from training.figures import Chart, Note, Part, Table
from training.figures_data import amount_bands, amounts, by_day, clock, data_parts, facts, scenarios


def rows_of(part: Part) -> dict[str, tuple[str, ...]]:
    assert isinstance(part, Table)
    return {row[0]: row[1:] for row in part.rows}


def test_facts_are_those_of_the_rows() -> None:
    data = history()
    found = rows_of(facts(data))
    frauds = data.filter("is_fraud")
    assert found["transactions"] == ("3,000",)
    assert found["first"] == (f"{data['timestamp'][0]:%Y-%m-%d %H:%M:%S} UTC",)
    assert found["accounts"] == (str(len(set(data["account_id"]))),)
    assert found["frauds"] == (f"{frauds.height} ({100 * frauds.height / 3_000:.1f} %)",)
    assert found["amount of the frauds"] == (f"{frauds['amount'].sum() / 100:,.2f}",)
    assert found["device_id missing"] == ("100 %",)


def test_days_without_transactions_count_as_zero_and_nothing_is_lost() -> None:
    data = history(days=30).filter(~pl.col("timestamp").dt.day().is_between(5, 9))
    chart = by_day(data)
    total, *kinds = chart.figure.data
    assert len(total.x) == 30
    assert list(total.y[4:9]) == [0] * 5
    assert sum(total.y) == data.height
    assert sum(sum(kind.y) for kind in kinds) == data["is_fraud"].sum()
    assert {kind.name for kind in kinds} == {"burst", "takeover"}


@pytest.mark.parametrize(("days", "unit"), [(0.5, "hour"), (2.9, "hour"), (3.5, "day"), (399, "day"), (900, "week")])
def test_the_span_chooses_the_bins(days: float, unit: str) -> None:
    chart = by_day(history(rows=500, days=days))
    assert chart.title.endswith(f"by {unit}")
    assert len(chart.figure.data[0].x) <= 400


def test_amounts_of_zero_and_refunds_are_in_the_first_bin() -> None:
    data = history(rows=2_000).with_columns(
        amount=pl.when(pl.int_range(pl.len()) == 0)
        .then(-500)
        .when(pl.int_range(pl.len()) == 1)
        .then(0)
        .otherwise("amount")
    )
    chart = amounts(data)
    for outline in chart.figure.data[:2]:
        assert sum(outline.y) == pytest.approx(100)
    assert "The first bin also holds 2 amounts" in chart.reading


@given(st.lists(st.integers(-1_000, 10_000_000), min_size=1, max_size=60))
def test_amount_bands_hold_every_row_in_order(minor: list[int]) -> None:
    names, band = amount_bands(np.array(minor))
    assert len(set(names)) == len(names) > band.max()
    order = np.argsort(minor, kind="stable")
    assert (np.diff(band[order]) >= 0).all()


def test_hours_are_shares_of_each_class() -> None:
    night = [START + timedelta(days=i // 10, hours=2) for i in range(100)]
    data = history(rows=100, timestamp=night, is_fraud=[i < 20 for i in range(100)])
    chart = clock(data)
    for bar in chart.figure.data:
        assert sum(bar.y) == pytest.approx(100)
    assert "100 % of the honest and 100 % of the fraudulent" in chart.reading


def test_kinds_of_fraud_add_up_and_unknown_ones_are_named_so() -> None:
    data = history(fraud_scenario=["burst" if i % 2 else None for i in range(3_000)])
    found = rows_of(scenarios(data))
    assert set(found) == {"burst", "unnamed"}
    assert sum(int(row[0].replace(",", "")) for row in found.values()) == data["is_fraud"].sum()


def test_no_kinds_of_fraud_is_said() -> None:
    assert isinstance(scenarios(history(fraud_scenario=None)), Note)


@pytest.mark.parametrize("flag", [False, True])
def test_one_class_gives_every_part(flag: bool) -> None:
    data = history(rows=200, is_fraud=[flag] * 200, fraud_scenario=None)
    parts = data_parts(data)
    assert {part.name for part in parts} == {"facts", "by_day", "amounts", "clock", "scenarios"}
    assert ("fraudulent" if flag else "honest") in amounts(data).reading


def test_figures_do_not_grow_with_the_history() -> None:
    small, large = (
        sum(len(part.figure.to_json()) for part in data_parts(history(rows=rows)) if isinstance(part, Chart))
        for rows in (1_000, 50_000)
    )
    assert large < 1.2 * small


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 10**14), st.integers(-100, 10**9), st.booleans(), st.sampled_from(["a", "<b>", None])),
        min_size=1,
        max_size=12,
    )
)
def test_any_history_with_rows_gives_every_part(rows: list[tuple[int, int, bool, str | None]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    data = history(
        rows=len(rows),
        timestamp=[START + timedelta(microseconds=micros) for micros, *_ in rows],
        amount=[amount for _, amount, *_ in rows],
        is_fraud=[flag for *_, flag, _ in rows],
        fraud_scenario=[kind if flag else None for *_, flag, kind in rows],
    )
    for part in data_parts(data):
        assert part.reading
