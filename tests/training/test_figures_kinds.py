from __future__ import annotations

import numpy as np

from tests.training.evaluations import evaluation, history
from training.figures import Table
from training.figures_kinds import kind_parts


def test_every_kind_has_its_counts_and_the_last_row_has_them_all() -> None:
    tested = evaluation(history(rows=20_000), budget=10)
    (table,) = kind_parts(tested)
    assert isinstance(table, Table)
    score = tested.candidates["xgboost"]
    for name, frauds, caught, _, _, missed, rank in table.rows:
        rows = tested.y & ((tested.fraud_scenario == name) | (name == "all"))
        left = rows & (score < tested.threshold)
        assert int(frauds) == rows.sum()
        assert int(caught) == rows.sum() - left.sum()
        assert missed == f"{tested.amount[left].sum() / 100:,.2f}"
        above = [int((score >= own).sum()) for own in score[left]]
        assert rank == f"{np.median(above):,.0f}"
    assert [row[0] for row in table.rows] == ["burst", "takeover", "all"]


def test_a_kind_that_is_caught_whole_has_no_rank_of_the_missed() -> None:
    (table,) = kind_parts(evaluation(threshold=0.0))
    assert isinstance(table, Table)
    assert {row[-1] for row in table.rows} == {"-"}
    assert {row[-2] for row in table.rows} == {"0.00"}


def test_without_names_there_is_no_table() -> None:
    assert not kind_parts(evaluation(fraud_scenario=np.array([None] * evaluation().y.size, dtype=object)))
