"""The comparison of the oracles with a model, counted by hand; and the command, with a model that needs no training."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from bench import ceiling
from bench.ceiling import DELAYED, MODEL, ORACLE, among_top, compare, noise
from features.bots import SCENARIOS
from tests.training.evaluations import evaluation
from training.compare import judged_rows
from training.pipeline import Options
from training.progress import Stages
from training.split import plan
from training.thresholds import AlertRate


def test_of_each_bot_is_counted_what_every_contender_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "RESAMPLES", 1)
    of = evaluation()
    of = replace(of, rule=AlertRate(of.y.mean()))
    burst = np.flatnonzero(of.fraud_scenario == "burst")
    takeover = np.flatnonzero(of.fraud_scenario == "takeover")
    sure = np.where(of.y, 0.9, 0.001)
    unsure = sure.copy()
    unsure[burst[:3]] = 0.0005  # below every honest row
    unsure[takeover[:2]] = 0.3
    found = compare(of, {ORACLE: sure, DELAYED: unsure, MODEL: 1 - sure}, of.account)
    assert found.alerts == of.y.sum() == len(burst) + len(takeover)
    assert sorted(found.bots) == ["burst", "takeover"]
    bursts, takeovers = found.bots["burst"], found.bots["takeover"]
    assert (bursts.frauds, takeovers.frauds) == (len(burst), len(takeover))
    missed = 1 - 3 / len(burst)
    assert bursts.likely == pytest.approx({ORACLE: 1.0, DELAYED: missed})
    assert bursts.alerted == pytest.approx({ORACLE: 1.0, DELAYED: missed, MODEL: 0.0})
    assert bursts.hidden == pytest.approx({ORACLE: 0.0, DELAYED: 1 - missed})
    assert takeovers.likely[DELAYED] == pytest.approx(1 - 2 / len(takeover))
    assert takeovers.alerted[DELAYED] == 1.0
    assert takeovers.hidden[DELAYED] == 0.0
    assert found.overall[ORACLE]["average_precision"] == 1.0
    assert found.overall[MODEL]["auc_roc"] == 0.0


def test_alerts_are_exactly_so_many_and_of_equals_the_earlier() -> None:
    assert among_top(np.array([0.1, 0.5, 0.5, 0.9, 0.5]), 3).tolist() == [False, True, True, True, False]


def test_the_noise_is_that_of_independent_merchants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "RESAMPLES", 12)
    rng = np.random.default_rng(3)
    y = rng.random(1_500) < 0.1
    one, other = (y * shift + rng.normal(size=y.size) for shift in (2.0, 1.0))
    merchant = np.arange(y.size)
    difference, error = noise(y, one, other, merchant)["auc_roc"]
    assert difference > 3 * error > 0
    # Every payment four times over is no further evidence.
    four = np.repeat(np.arange(y.size), 4)
    assert noise(y[four], one[four], other[four], merchant[four])["auc_roc"] == pytest.approx(
        (difference, error), rel=0.4
    )
    assert noise(y, one, one, merchant)["average_precision"] == (0.0, 0.0)


def untrained(history: pl.DataFrame, features: pl.DataFrame, options: Options, _: Stages) -> SimpleNamespace:
    """Stands for ``train``: the amount is the score."""
    split = plan(history, label_delay=options.label_delay, reach=options.label_delay, test_days=options.test_days)
    rows = judged_rows(history, features, split, split.held_out, keep_compromised=options.keep_compromised)
    of = {name: getattr(rows, name) for name in ("y", "amount", "timestamp", "account", "fraud_scenario")}
    candidates = {"amount": rows.amount.astype(np.float64)}
    held_out = replace(evaluation(), candidates=candidates, champion="amount", split=split, **of)
    return SimpleNamespace(evaluation=held_out)


def test_the_command_holds_the_oracles_against_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ceiling, "RESAMPLES", 2)
    monkeypatch.setattr(ceiling, "train", untrained)
    monkeypatch.setattr(ceiling, "compute", lambda history: history.select(pl.col("amount").cast(pl.Float32)))
    assert ceiling.main(["--accounts=150", "--days=50", "--intensity=5", "--alert-rate=0.1", "--seed=3"]) == 0
    said = capsys.readouterr().out
    figures = {
        line.strip().split("  ")[0]: [float(figure) for figure in re.findall(r"\d\.\d{3}", line)]
        for line in said.splitlines()
        if re.search(r"\d\.\d{3}", line)
    }
    for metric in (0, 1):
        assert figures[ORACLE][metric] >= figures[DELAYED][metric] > figures["model (amount)"][metric]
    assert figures[ORACLE][0] > 0.9
    assert [line for line in figures if line in SCENARIOS] == sorted(SCENARIOS)
    assert figures["amount_spike"][:3] == [1.0, 1.0, 0.0]


def test_unusable_options_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ceiling.main(["--accounts=0"]) == 2
    assert capsys.readouterr().err == "ceiling: accounts is 0; give a whole number of at least 1\n"
