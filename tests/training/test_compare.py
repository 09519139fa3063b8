from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import numpy as np
import polars as pl
import pytest

from features.definitions import feature_set, reach
from features.errors import InvalidHistory
from tests.training.fitted import simulated
from training.compare import Rows, choose, evaluate, judged_rows, training_rows
from training.fit import CANDIDATES, Models, fit
from training.split import DAY, Split, plan
from training.thresholds import AlertRate, AlertsPerDay, LeastCost

WEEK = 7 * DAY
RULE = AlertRate(0.02)


@cache
def rehearsed() -> Models:
    history, features, split = planned()
    return fit(*training_rows(history, features, split, split.rehearsal))


def planned() -> tuple[pl.DataFrame, pl.DataFrame, Split]:
    history, features = simulated()
    return history, features, plan(history, label_delay=WEEK, reach=reach(feature_set()))


def test_training_labels_are_those_known_when_the_period_and_its_delay_are_over() -> None:
    history, features, split = planned()
    early = history.with_columns(pl.lit(split.rehearsal.end + WEEK).alias("labelled_at").cast(pl.Datetime("us", "UTC")))
    late = early.with_columns(pl.col("labelled_at") + pl.duration(microseconds=1))
    known = training_rows(early, features, split, split.rehearsal)[1]
    assert known.sum() == history.filter(pl.Series(split.rehearsal.rows(history)))["is_fraud"].sum() > 0
    assert training_rows(late, features, split, split.rehearsal)[1].sum() == 0


def test_validation_labels_are_those_known_at_as_of_and_test_labels_are_all() -> None:
    history, features, split = planned()
    never = history.with_columns(
        pl.lit(datetime(2030, 1, 1, tzinfo=UTC), pl.Datetime("us", "UTC")).alias("labelled_at")
    )
    assert split.test is not None
    for period, known in ((split.validation, False), (split.test, True)):
        rows = judged_rows(never, features, split, period, keep_compromised=True)
        assert bool(rows.y.any()) is known
        assert len(rows.y) == period.rows(history).sum()


def test_known_compromised_accounts_are_left_out_unless_they_are_kept() -> None:
    history, features, split = planned()
    assert split.test is not None
    kept = judged_rows(history, features, split, split.test, keep_compromised=True)
    left = judged_rows(history, features, split, split.test, keep_compromised=False)
    assert len(left.y) < len(kept.y)
    assert set(left.account) < set(kept.account)


def test_rows_belong_together() -> None:
    history, features, split = planned()
    rows = judged_rows(history, features, split, split.validation, keep_compromised=False)
    both = history.hstack(features.rename({"amount": "feature_amount"})).sample(fraction=1, seed=1)
    wanted = both.filter(
        pl.col("timestamp").is_between(split.validation.start, split.validation.end, closed="left"),
        pl.col("account_id").is_in(rows.account.tolist()),
    )
    found = pl.DataFrame(
        {"account_id": rows.account, "at": rows.timestamp, "amount": rows.amount, "f": rows.features[:, 0]}
    )
    joined = found.join(wanted.with_columns(at=pl.col("timestamp").dt.epoch("us")), on=["account_id", "at", "amount"])
    assert joined.height == found.height
    assert (joined["f"] == joined["feature_amount"]).all()


def test_the_choice_is_made_on_validation_rows_alone_and_the_evaluation_takes_it_over() -> None:
    history, features, split = planned()
    assert split.test is not None
    models = rehearsed()
    validation = judged_rows(history, features, split, split.validation, keep_compromised=True)
    test = judged_rows(history, features, split, split.test, keep_compromised=True)
    choice = choose(models, validation, RULE)
    precisions = {name: metrics["average_precision"] for name, metrics in choice.metrics.items()}
    assert precisions[choice.champion] == max(precisions.values())
    for metrics in choice.metrics.values():
        assert metrics["alerts_per_day"] * 7 <= 0.02 * len(validation.y)

    evaluation = evaluate(models, choice, test, names=tuple(features.columns), split=split)
    assert tuple(evaluation.candidates) == CANDIDATES
    assert evaluation.threshold == choice.thresholds[choice.champion]
    assert evaluation.budget == "alerts on 2 % of the transactions"
    assert sum(evaluation.importances.values()) == pytest.approx(1)
    for name, scores in evaluation.candidates.items():
        assert scores.shape == test.y.shape
        assert evaluation.metrics[name]["threshold"] == choice.thresholds[name]
        assert scores.mean() == pytest.approx(validation.y.mean(), abs=0.02)  # calibrated to the validation days
    assert evaluation.metrics[choice.champion]["auc_roc"] > 0.8
    assert (evaluation.validation.y == validation.y).all()
    assert (evaluation.scored.scores == evaluation.candidates[choice.champion]).all()
    assert evaluation.scored.days == evaluation.validation.days == 7


def test_the_least_cost_is_counted_on_validation_and_on_held_out_rows() -> None:
    history, features, split = planned()
    assert split.test is not None
    models = rehearsed()
    validation = judged_rows(history, features, split, split.validation, keep_compromised=True)
    test = judged_rows(history, features, split, split.test, keep_compromised=True)
    choice = choose(models, validation, LeastCost(5))
    evaluation = evaluate(models, choice, test, names=tuple(features.columns), split=split)
    assert evaluation.budget == "least cost at 5 a review"
    for rows, metrics in ((validation, choice.metrics), (test, evaluation.metrics)):
        of_champion = metrics[choice.champion]
        lost = sum(amount for amount, bad in zip(rows.amount.tolist(), rows.y.tolist(), strict=True) if bad) / 100
        assert of_champion["cost_without_alerts"] == pytest.approx(lost)
        assert 0 < of_champion["saved"] == pytest.approx(lost - of_champion["cost"])


def test_a_champion_that_would_raise_no_alert_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    history, features, split = planned()
    models = rehearsed()
    rows = judged_rows(history, features, split, split.validation, keep_compromised=True)
    choose(models, rows, AlertsPerDay(5))
    assert not [record for record in caplog.records if record.name.startswith("training")]
    choice = choose(models, rows, LeastCost(1e9))
    assert choice.metrics[choice.champion]["saved"] == 0
    assert "least cost at 1e+09 a review the validation days get no alert at all" in caplog.text
    same = Rows(**(vars(rows) | {"features": np.zeros_like(rows.features)}))
    caplog.clear()
    assert choose(models, same, AlertsPerDay(5)).metrics["xgboost"]["alerts_per_day"] == 0
    assert "share the highest score" in caplog.text


def test_a_validation_without_frauds_is_refused() -> None:
    history, features, split = planned()
    rows = judged_rows(history, features, split, split.validation, keep_compromised=True)
    honest = Rows(**(vars(rows) | {"y": np.zeros_like(rows.y)}))
    models = rehearsed()
    with pytest.raises(InvalidHistory, match="the validation days have 0 frauds"):
        choose(models, honest, RULE)
