"""Examples with their reasons, of a real graph: XGBoost's own TreeSHAP is the oracle."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgboost

from features.definitions import FEATURES, LABEL_DELAY, reach
from features.errors import InvalidHistory
from features.sentences import sentence
from tests.training.evaluations import evaluation, features, history
from tests.training.fitted import COLUMNS, fitted, simulated
from training.calibration import Calibration
from training.compare import judged_rows
from training.evaluate import Evaluation
from training.export import build
from training.figures import Cards, Note
from training.figures_examples import (
    CAUGHT,
    FALSE_ALARMS,
    MISSED,
    Explained,
    contributions,
    example_parts,
    examples,
    judged_transactions,
)
from training.fit import XGBOOST
from training.report import render
from training.split import plan

CALIBRATION = Calibration(0.8, -0.5)
SPECS = FEATURES[:COLUMNS]


@cache
def case() -> tuple[Evaluation, Explained]:
    """A history of 2,000 rows whose features and labels are those that the fitted models have not seen."""
    models = fitted()
    data = history(rows=2_000, days=7, is_fraud=models.fresh_y.tolist())
    kinds = np.random.default_rng(1).choice(["burst", "takeover"], 2_000).astype(object)
    kinds[~models.fresh_y] = None
    margin = models.models.margin(XGBOOST, models.fresh)
    tested = evaluation(
        data,
        candidates={XGBOOST: CALIBRATION.scores(margin)},
        features=models.fresh,
        feature_names=tuple(spec.name for spec in SPECS),
        fraud_scenario=kinds,
        budget=10,
    )
    assert tested.y.size == 2_000
    return tested, Explained(build(models.models, XGBOOST, CALIBRATION), SPECS, data)


def oracle(rows: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = fitted().models.xgboost.get_booster().predict(xgboost.DMatrix(rows), pred_contribs=True)
    return CALIBRATION.slope * found[:, :-1].astype(np.float64)


def test_cards_are_of_rows_of_the_history_and_carry_xgboosts_own_reasons() -> None:
    tested, explained = case()
    (cards,) = example_parts(tested, explained)
    assert isinstance(cards, Cards)
    kinds = {"caught": 0, "false_alarm": 0, "missed": 0}
    for card in cards.cards:
        kinds[card.kind] += 1
        facts = dict(card.facts)
        (position,) = np.flatnonzero(explained.history["transaction_id"].to_numpy() == facts["transaction"])
        of = explained.history.row(int(position), named=True)
        assert facts["merchant"] == of["merchant_id"]
        assert facts["account"] == of["account_id"]
        assert facts["amount"] == f"{of['amount'] / 100:,.2f}"
        assert facts["time"] == f"{of['timestamp']:%Y-%m-%d %H:%M:%S} UTC"
        assert of["is_fraud"] == (card.kind != "false_alarm")
        row = tested.features[position]
        exact = dict(zip(tested.feature_names, oracle(row[None])[0], strict=True))
        sign = -1 if card.kind == "missed" else 1
        strongest = sorted((sign * value for value in exact.values() if sign * value > 0), reverse=True)[:4]
        shown = [sign * reason.contribution for reason in card.reasons]
        assert [value for value in shown if value > 0] == pytest.approx(strongest, abs=1e-5)
        named = dict(zip(SPECS, row.tolist(), strict=True))
        sentences = {spec.name: sentence(spec, named) for spec in SPECS}
        for reason in card.reasons:
            assert reason.contribution == pytest.approx(exact[reason.feature], abs=1e-5)
            assert reason.sentence == sentences[reason.feature]
    assert kinds["caught"] >= 4
    assert kinds["false_alarm"] == FALSE_ALARMS
    assert kinds["missed"] == MISSED


def test_examples_are_a_spread_and_no_account_comes_twice() -> None:
    tested, _ = case()
    score = tested.candidates[XGBOOST]
    caught, false_alarms, missed = examples(tested)
    alert = score >= tested.threshold
    assert caught.size == CAUGHT
    assert set(tested.fraud_scenario[caught]) == {"burst", "takeover"}
    assert (alert & tested.y)[caught].all()
    assert (alert & ~tested.y)[false_alarms].all()
    assert (~alert & tested.y)[missed].all()
    assert score[caught].max() == score[tested.y].max()
    assert tested.amount[missed].max() == tested.amount[tested.y & ~alert].max()
    for rows in (false_alarms, missed):
        assert len(set(tested.account[rows])) == rows.size


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_alerts_for_everything_or_nothing_have_their_examples(threshold: float) -> None:
    tested, explained = case()
    caught, false_alarms, missed = examples(replace(tested, threshold=threshold))
    assert (not missed.size, bool(caught.size and false_alarms.size)) == ((threshold == 0),) * 2
    chart = contributions(replace(tested, threshold=threshold), explained)
    assert (chart is None) == (threshold == 2)


def test_bars_are_the_mean_sizes_over_the_alerts() -> None:
    tested, explained = case()
    alerts = tested.features[tested.candidates[XGBOOST] >= tested.threshold]
    expected = dict(zip(tested.feature_names, np.abs(oracle(alerts)).mean(axis=0), strict=True))
    chart = contributions(tested, explained)
    assert chart
    raises, lowers = chart.figure.data
    for name, up, down in zip(raises.y, raises.x, lowers.x, strict=True):
        assert up + down == pytest.approx(expected[name], abs=1e-5)
    assert list(raises.y) == sorted(raises.y, key=lambda name: -expected[name])
    assert f"Of {len(alerts)} held-out alerts" in chart.reading


def test_without_test_days_nothing_is_explained() -> None:
    tested, explained = case()
    untested = replace(tested, split=replace(tested.split, test=None))
    assert contributions(untested, explained) is None
    (note,) = example_parts(untested, explained)
    assert isinstance(note, Note)
    silent = replace(tested, threshold=2.0, y=np.zeros(tested.y.size, bool))
    assert "no alert on the test days" in example_parts(silent, explained)[0].reading


@pytest.mark.parametrize("keep_compromised", [False, True])
def test_the_transactions_judged_are_those_of_the_evaluation(keep_compromised: bool) -> None:
    history, matrix = simulated()
    split = plan(history, label_delay=LABEL_DELAY, reach=reach(FEATURES))
    assert split.test
    rows = judged_rows(history, matrix, split, split.test, keep_compromised=keep_compromised)
    assert keep_compromised == (rows.y.size == split.test.rows(history).sum())
    tested = replace(case()[0], y=rows.y, timestamp=rows.timestamp, split=split)
    judged = judged_transactions(tested, history)
    assert judged["account_id"].to_list() == rows.account.tolist()
    assert judged["amount"].to_list() == rows.amount.tolist()


def test_another_history_is_refused() -> None:
    tested, explained = case()
    other = replace(explained, history=explained.history.with_columns(pl.col("timestamp") - pl.duration(seconds=1)))
    with pytest.raises(InvalidHistory, match="give the history that the model was evaluated on"):
        example_parts(tested, other)


def test_the_report_shows_them_and_reads_no_markup_in_the_data(tmp_path: Path) -> None:
    tested, explained = case()
    hostile = explained.history.with_columns(merchant_id=pl.lit("<img src=x>"))
    path = tmp_path / "report.html"
    explained = replace(explained, history=hostile)
    render(tested, hostile, features(hostile), path, explained=explained, quality=tmp_path / "none.json")
    page = path.read_text(encoding="utf-8")
    assert page.count("<article") == CAUGHT + FALSE_ALARMS + MISSED
    assert "<img" not in page.partition('id="examples"')[2].partition("<script")[0]
    assert "<dd>&lt;img src=x&gt;</dd>" in page
    assert 'id="contributions"' in page
    assert "<code>just bench-quality DATA" in page.partition('id="comparison"')[2].partition("<h2")[0]
    assert 'id="importances"' not in page
