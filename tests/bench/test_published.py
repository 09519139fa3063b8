"""The file of published figures is whole, and says of each model how to make it again."""

from __future__ import annotations

import numpy as np
import pytest

from bench.baselines import fitted, probabilities
from bench.published import FILE, METRICS, PublishedRow, published
from tests.bench.small import contest

ROWS = published().rows


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.block}: {row.model}")
def test_every_row_has_all_its_figures(row: PublishedRow) -> None:
    assert row.test or row.validation
    for figures in (row.test, row.validation):
        assert not figures or tuple(figures) == METRICS
        for mean, *deviation in figures.values():
            assert 0.15 < mean < 0.9
            assert len(deviation) == (row.block == "four_weeks")
            assert all(0 < value < 0.05 for value in deviation)
    assert set(row.chosen) == (set(METRICS) if row.learner else set())


def test_models_are_told_apart_and_the_source_is_named() -> None:
    assert len({(row.block, row.model) for row in ROWS}) == len(ROWS)
    assert "Handbook" in FILE.read_text(encoding="utf-8").split("[history]")[0]


def test_what_was_best_on_test_is_no_worse_than_what_was_chosen() -> None:
    by_model = {row.model: row for row in ROWS}
    best, chosen = by_model["XGBoost, best on test"], by_model["XGBoost, chosen on validation"]
    assert all(best.test[metric][0] >= chosen.test[metric][0] for metric in METRICS)


def test_every_learner_takes_its_parameters() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 15)).astype(np.float32)
    y = x[:, 0] > 1
    for learner, parameters in {row.learner: row.chosen["auc_roc"] for row in ROWS if row.learner}.items():
        scores = probabilities(fitted(learner, parameters, x, y), x)
        assert scores.dtype == np.float64
        assert scores[y].min() > scores[~y].mean(), learner


def test_another_history_is_not_the_handbooks() -> None:
    assert not published().history.is_this(contest().history)
