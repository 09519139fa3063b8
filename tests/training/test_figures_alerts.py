from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluations import evaluation, history
from training.evaluate import CARDS, card_precision, days_of
from training.figures import Chart, Note
from training.figures_alerts import alert_parts, alerts_against_recall, card_hits, confusion, importances, weak_parts
from training.figures_alerts import card_precision as card_precision_chart


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hits_by_day_average_to_card_precision(seed: int) -> None:
    generator = np.random.default_rng(seed)
    data = history(rows=20_000, account_id=generator.integers(0, 2_000, 20_000).astype(str))
    tested = evaluation(data)
    for score in (tested.candidates["logistic_regression"], tested.candidates["logistic_regression"].round(1)):
        days, hits, possible = card_hits(tested, score)
        day = days_of(tested.timestamp, tested.split.held_out)
        assert np.mean(hits) / CARDS == pytest.approx(card_precision(score, tested.y, tested.account, day))
        assert len(days) == 7
        assert all(hit <= min(CARDS, most) for hit, most in zip(hits, possible, strict=True))


def test_the_matrix_counts_every_row() -> None:
    tested = evaluation()
    alert = tested.candidates["xgboost"] >= tested.threshold
    cells = confusion(tested).figure.data[0].text
    for i, was in enumerate((False, True)):
        for j, said in enumerate((False, True)):
            rows = (tested.y == was) & (alert == said)
            assert cells[i][j].startswith(f"<b>{rows.sum():,}</b>")
            assert cells[i][j].endswith(f"amount {tested.amount[rows].sum() / 100:,.2f}")


def test_the_curve_of_alerts_passes_through_the_threshold() -> None:
    tested = evaluation(history(rows=20_000), budget=40)
    traces = {trace.name: trace for trace in alerts_against_recall(tested).figure.data}
    line, marker = traces["xgboost"], traces["the threshold"]
    assert marker.x[0] == pytest.approx(40)
    assert np.interp(40, line.x, line.y) == pytest.approx(marker.y[0], abs=1)
    assert line.y[-1] == traces["xgboost, of the amount"].y[-1] == 100
    assert (np.diff(line.y) >= 0).all()


def test_tied_scores_raise_their_alerts_together() -> None:
    tested = evaluation(candidates={"flat": np.full(evaluation().y.size, 0.5)})
    line = alerts_against_recall(tested).figure.data[0]
    assert (line.x * 7).tolist() == [tested.y.size]
    assert line.y.tolist() == [100]


def test_recall_by_kind_names_the_weakest() -> None:
    base = evaluation(history(rows=20_000), budget=10)
    kinds = np.array([None] * base.y.size, dtype=object)
    caught = base.candidates["xgboost"] >= base.threshold
    kinds[base.y & caught] = "seen"
    kinds[base.y & ~caught] = "missed"
    tested = evaluation(history(rows=20_000), budget=10, fraud_scenario=kinds)
    chart = weak_parts(tested)[0]
    assert isinstance(chart, Chart)
    missed = (base.y & ~caught).sum()
    assert f"Weakest is missed: 0 of {missed} frauds (0 %)" in chart.reading
    assert dict(zip(chart.figure.data[0].y, chart.figure.data[0].x, strict=True)) == {"missed": 0, "seen": 100}


def test_every_fraud_is_in_one_band() -> None:
    tested = evaluation()
    for chart in weak_parts(tested):
        assert isinstance(chart, Chart)
        detail = chart.figure.data[0].customdata
        assert sum(int(text.split(" of ")[1].split(" ")[0]) for text in detail) == tested.y.sum()


def test_kinds_that_are_unknown_give_a_note_and_partly_known_ones_a_group() -> None:
    size = evaluation().y.size
    unknown = evaluation(fraud_scenario=np.array([None] * size, dtype=object))
    assert isinstance(weak_parts(unknown)[0], Note)
    partly = np.array([None] * size, dtype=object)
    partly[np.flatnonzero(evaluation().y)[0]] = "burst"
    chart = weak_parts(evaluation(fraud_scenario=partly))[0]
    assert isinstance(chart, Chart)
    assert set(chart.figure.data[0].y) == {"burst", "unnamed"}
    assert "1 group with fewer than 10 frauds says little" in chart.reading


def test_importances_are_sorted_and_those_of_nothing_left_out() -> None:
    chart = importances(evaluation())
    assert isinstance(chart, Chart)
    assert list(chart.figure.data[0].y) == ["telling", "falling", "noise", "half_missing"]
    assert "1 feature of 6 carries half" in chart.reading
    assert "2 features are not used at all" in chart.reading
    assert isinstance(importances(evaluation(importances={})), Note)


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_alerts_for_everything_or_nothing_give_every_figure(threshold: float) -> None:
    tested = evaluation(threshold=threshold)
    parts = [*alert_parts(tested), *weak_parts(tested)]
    assert len(parts) == 6
    assert ("no fraud caught" in parts[0].reading) == (threshold == 2.0)


def test_frauds_without_an_amount_have_no_curve_of_amounts() -> None:
    tested = evaluation(amount=np.zeros(evaluation().y.size, np.int64))
    assert "xgboost, of the amount" not in {trace.name for trace in alerts_against_recall(tested).figure.data}


def test_the_most_that_was_possible_is_never_passed() -> None:
    *lines, ceiling = card_precision_chart(evaluation()).figure.data
    assert (np.array(lines[0].y) <= np.array(ceiling.y)).all()
