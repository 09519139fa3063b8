from __future__ import annotations

import math
import re

import numpy as np
import pytest

from tests.training.evaluations import evaluation, history
from training.calibration import expected_calibration_error
from training.figures import wilson
from training.figures_calibration import HIGHEST, LOWEST, bins, calibration


def share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def test_points_and_intervals_are_those_of_the_bins() -> None:
    tested = evaluation(history(rows=20_000))
    chart = calibration(tested)
    for (name, score), line in zip(tested.candidates.items(), chart.figure.data, strict=False):
        assert line.name.endswith(f"error {expected_calibration_error(score, tested.y):.5f}")
        predicted, rows, frauds = bins(score, tested.y)
        assert rows.sum() == tested.y.size
        assert frauds.sum() == tested.y.sum()
        assert predicted @ rows == pytest.approx(score.sum())
        assert [share(x) for x in line.x] == pytest.approx(predicted.clip(LOWEST, HIGHEST))
        assert [share(y) for y in line.y] == pytest.approx((frauds / rows).clip(LOWEST, HIGHEST))
        if name != tested.champion:
            assert line.error_y.array is None
            continue
        for y, up, down, of_bin in zip(
            line.y, line.error_y.array, line.error_y.arrayminus, zip(frauds, rows, strict=True), strict=True
        ):
            ends = share(y - down), share(y + up)
            assert ends == pytest.approx(np.clip(wilson(*of_bin), LOWEST, HIGHEST))


def test_bins_expect_equally_many_frauds() -> None:
    score = np.random.default_rng(5).beta(0.05, 3, 50_000)
    predicted, rows, _ = bins(score, np.zeros(50_000, dtype=bool))
    assert predicted * rows == pytest.approx(np.full(10, score.sum() / 10), abs=1)
    assert np.diff(predicted).min() > 0


def test_scores_that_are_probabilities_are_near_the_error_by_chance_and_others_are_not() -> None:
    generator = np.random.default_rng(5)
    base = evaluation(history(rows=60_000))
    score = generator.beta(0.3, 4, base.y.size)
    y = generator.random(score.size) < score
    fair, bold = (evaluation(history(rows=60_000), y=y, candidates={"c": of}) for of in (score, np.sqrt(score)))

    def errors(reading: str) -> list[float]:
        return [float(number) for number in re.findall(r"(?:rows, is|about) ([\d.]+)", reading)]

    error, by_chance = errors(calibration(fair).reading)
    assert error < 2 * by_chance
    error, by_chance = errors(calibration(bold).reading)
    assert error > 10 * by_chance
