"""A week's contest: the book's columns, who is left out and card precision, each against a naive second version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from bench.ablation import ablate, groups
from bench.baselines import BalancedBagging
from bench.contest import BOOK, PERFECT, book_models, to_beat
from bench.published import METRICS, PublishedRow
from bench.search import combinations, search
from bench.weeks import WEEK
from features.definitions import DAY, FEATURES, Entity
from tests.bench.small import contest
from training.compare import judged_rows
from training.pipeline import DEFAULT_RULE

Transaction = dict[str, Any]


def window(rows: list[Transaction], after: datetime, until: datetime) -> list[Transaction]:
    return [row for row in rows if after < row["timestamp"] <= until]


def naive_columns(rows: list[Transaction], now: Transaction) -> Iterator[float]:
    """The book's definitions (chapter 3.4), word by word; amounts in cents."""
    t = now["timestamp"]
    yield now["amount"] / 100
    yield t.weekday() >= 5
    yield t.hour <= 6
    paid, took = ([r for r in rows if r[key] == now[key]] for key in ("account_id", "merchant_id"))
    for days in (1, 7, 30):
        own = window(paid, t - days * DAY, t)
        yield len(own)
        yield sum(row["amount"] for row in own) / len(own) / 100
    for days in (1, 7, 30):
        known = window(took, t - (7 + days) * DAY, t - 7 * DAY)
        yield len(known)
        yield sum(row["is_fraud"] for row in known) / len(known) if known else 0


def test_the_books_columns_are_those_of_its_definitions() -> None:
    history = contest().history
    # A fraud counts from its label on where it has one; the book's are known when the delay is over, as ours are.
    assert ((history["labelled_at"] - history["timestamp"]).drop_nulls() <= WEEK).all()
    rows = history.to_dicts()
    instants = Counter((row["account_id"], row["timestamp"]) for row in rows)
    # Merchants that were defrauded are rare in a plain sample.
    defrauded = contest().book["TERMINAL_ID_RISK_30DAY_WINDOW"].to_numpy() > 0
    generator = np.random.default_rng(3)
    picked = [*generator.choice(np.flatnonzero(defrauded), 30), *generator.choice(len(rows), 40)]
    found = contest().book.to_numpy()[picked]
    expected = np.array([list(naive_columns(rows, rows[i])) for i in picked], np.float32)
    alone = np.array([instants[rows[i]["account_id"], rows[i]["timestamp"]] == 1 for i in picked])
    assert alone.sum() > 60, "an account's transactions of one second, where definitions differ, are rare"
    np.testing.assert_array_equal(found[alone], expected[alone])


def naive_judged(start: datetime) -> list[Transaction]:
    """The rows of a test week less accounts with a fraud between the start of training and eight days before."""
    rows = contest().history.to_dicts()
    kept = []
    for number in range(7):
        morning = start + number * DAY
        known = {r["account_id"] for r in rows if r["is_fraud"] and start - 2 * WEEK <= r["timestamp"] < morning - WEEK}
        today = [r for r in rows if r["timestamp"].date() == morning.date()]
        kept += [r for r in today if r["account_id"] not in known]
    return kept


def naive_card_precision(rows: list[Transaction], scores: list[float], cards: int = 100) -> float:
    found: set[str] = set()
    precisions = []
    for day in sorted({row["timestamp"].date() for row in rows}):
        best: dict[str, float] = {}
        bad = set()
        for row, score in zip(rows, scores, strict=True):
            if row["timestamp"].date() == day and row["account_id"] not in found:
                best[row["account_id"]] = max(score, best.get(row["account_id"], 0.0))
                if row["is_fraud"]:
                    bad.add(row["account_id"])
        hits = set(sorted(best, key=lambda account: -best[account])[:cards]) & bad
        precisions.append(len(hits) / cards)
        found |= hits
    return sum(precisions) / len(precisions)


def test_who_is_judged_and_how_is_what_the_book_says() -> None:
    start = contest().weeks.test[0]
    # Labels that take their full week, as the book's do.
    history = (
        contest().history.with_columns(labelled_at=None).cast({"labelled_at": contest().history.schema["timestamp"]})
    )
    split = contest().split(start)
    assert split.test
    rows = judged_rows(history, contest().book, split, split.test, keep_compromised=False)
    expected = naive_judged(start)
    everybody = split.test.rows(history).sum()
    assert rows.account.tolist() == [row["account_id"] for row in expected]
    assert 0 < len(expected) < everybody
    scores = np.random.default_rng(1).permutation(len(expected)) / len(expected)
    for scored, cards in ((scores, "at random"), (rows.y.astype(float), "perfect")):
        found = rows.judge(scored, 0.5, DEFAULT_RULE)["card_precision_100"]
        assert found == pytest.approx(naive_card_precision(expected, scored.tolist())), cards


def untuned(**parameters: float) -> PublishedRow:
    chosen = {metric: dict(parameters) for metric in METRICS}
    return PublishedRow("trees", "none", "four_weeks", "xgboost", chosen)


def test_the_books_models_learn_and_the_perfect_model_is_perfect() -> None:
    start = contest().weeks.test[0]
    found = book_models(contest(), start, [untuned(n_estimators=20, learning_rate=0.3, max_depth=3)])
    (trees, learnt), (perfect, known) = found.items()
    assert (trees.model, trees.features, perfect.model) == ("trees", BOOK, PERFECT)
    assert known.figures["auc_roc"] == known.figures["average_precision"] == 1
    assert 0.4 < learnt.figures["auc_roc"] < 1
    assert learnt.figures["card_precision_100"] <= known.figures["card_precision_100"]
    more = to_beat(contest(), start)
    assert all(0.4 < measured.figures["auc_roc"] < 1 for measured in more.values())


def test_a_metric_has_the_figures_of_the_parameters_chosen_for_it() -> None:
    start = contest().weeks.test[0]
    small = untuned(n_estimators=1, learning_rate=0.3, max_depth=1)
    large = untuned(n_estimators=20, learning_rate=0.3, max_depth=3)
    mixed = PublishedRow("mixed", "none", "four_weeks", "xgboost", {**large.chosen, "auc_roc": small.chosen["auc_roc"]})

    def figures(row: PublishedRow) -> dict[str, float]:
        return next(iter(book_models(contest(), start, [row]).values())).figures

    assert figures(mixed) == {**figures(large), "auc_roc": figures(small)["auc_roc"]}
    assert figures(small)["auc_roc"] != figures(large)["auc_roc"]


def test_the_search_takes_what_is_best_on_the_validation_weeks(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = {"xgboost": {"n_estimators": [1, 20], "learning_rate": [0.3], "max_depth": [1, 3]}}
    monkeypatch.setattr("bench.search.GRIDS", grids)
    row = untuned(n_estimators=1, learning_rate=0.3, max_depth=1)
    steps: list[None] = []
    (chosen,) = search(contest(), [row], lambda: steps.append(None))
    assert len(steps) == combinations([row]) == 4

    def reached(metric: str, parameters: dict[str, float | int]) -> float:
        candidate = PublishedRow("trees", "none", "four_weeks", "xgboost", dict.fromkeys(METRICS, parameters))
        measured = next(iter(book_models(contest(), contest().weeks.validation[0], [candidate]).values()))
        return measured.figures[metric]

    for metric in METRICS:
        values = [
            reached(metric, {"n_estimators": n, "learning_rate": 0.3, "max_depth": d}) for n in (1, 20) for d in (1, 3)
        ]
        assert reached(metric, chosen.chosen[metric]) == max(values)
    assert chosen.chosen["average_precision"]["n_estimators"] == 20


def test_groups_by_kind_hold_every_feature_once() -> None:
    found = groups(FEATURES)
    kinds = [
        position for name, positions in found.items() if not name.startswith("windows of") for position in positions
    ]
    assert sorted(kinds) == list(range(len(FEATURES)))
    assert [FEATURES[i].entity for i in found["the transaction itself"]] == [Entity.TRANSACTION] * 4
    assert all(FEATURES[i].window == DAY for i in found["windows of 1 day"])


def test_what_a_group_brings_is_lost_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.ablation.XGBOOST_PARAMETERS", {"n_estimators": 2, "max_depth": 2, "max_bin": 16})
    monkeypatch.setattr("bench.ablation.HONEST", 1_000)
    telling = contest().history["is_fraud"].to_numpy().astype(np.float32)
    names = [feature.name for feature in FEATURES]
    # Only one feature tells anything: the amount's column holds the label, all others are constant.
    ours = contest().ours.select(contest().ours[name].fill_nan(0) * 0 for name in names).with_columns(amount=telling)
    told = type(contest())(contest().history, ours, contest().book, contest().weeks)
    steps: list[None] = []
    by_group = {found.group: found for found in ablate(told, FEATURES, lambda: steps.append(None))}
    own = by_group["the transaction itself"]
    assert own.everything == own.alone == pytest.approx([1.0])
    assert own.without[0] < 0.2
    others = by_group["merchant: known frauds"]
    assert others.without == pytest.approx([1.0])
    assert others.alone[0] < 0.2
    assert len(steps) == 1


def test_balanced_bagging_sees_as_many_frauds_as_it_is_told_to() -> None:
    generator = np.random.default_rng(0)
    y = generator.random(3_000) < 0.02
    x = generator.normal(size=(3_000, 2))  # says nothing, so a stump's score is the share of frauds it saw

    def score(strategy: float) -> float:
        return float(BalancedBagging(5, 1, strategy).fit(x, y).predict_proba(x)[:, 1].mean())

    assert score(1.0) == pytest.approx(0.5, abs=0.05)
    assert score(0.1) == pytest.approx(1 / 11, abs=0.02)
