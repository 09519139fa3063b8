from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import ks_2samp, spearmanr
from sklearn.metrics import roc_auc_score

from tests.training.evaluations import features, history
from training import figures_features
from training.figures import Chart, Note, Part
from training.figures_features import Sample, correlations, distributions, feature_parts, sample, separations


def parts_of(values: pl.DataFrame, is_fraud: list[bool]) -> dict[str, Part]:
    return {part.name: part for part in feature_parts(values, pl.Series("is_fraud", is_fraud))}


def test_separation_is_that_of_sklearn_and_scipy() -> None:
    data = history()
    values = features(data)
    fraud = data["is_fraud"].to_numpy()
    found = {s.name: s for s in separations(sample(values, data["is_fraud"]))}
    for name in ("telling", "falling", "noise", "half_missing", "constant"):
        column = values[name].to_numpy()
        here = np.isfinite(column)
        area = roc_auc_score(fraud[here], column[here])
        assert found[name].auc == pytest.approx(max(area, 1 - area))
        assert found[name].rises == (area >= 0.5)
        distance = ks_2samp(column[here & fraud], column[here & ~fraud]).statistic
        assert found[name].ks == pytest.approx(distance)
        assert found[name].missing == pytest.approx(1 - here.mean())
        assert found[name].missing_frauds == pytest.approx(1 - here[fraud].mean())
    assert not found["falling"].rises
    assert found["constant"].auc == 0.5
    assert math.isnan(found["empty"].auc)


def test_features_are_ranked_and_those_without_values_last() -> None:
    data = history()
    ranking = separations(sample(features(data), data["is_fraud"]))
    areas = [s.auc for s in ranking[:-1]]
    assert areas == sorted(areas, reverse=True)
    assert ranking[0].name == "falling"
    assert ranking[-1].name == "empty"


def test_a_sample_keeps_rare_frauds_and_weighs_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures_features, "HONEST_SAMPLE", 500)
    data = history(rows=5_000)
    values = features(data)
    rows = sample(values, data["is_fraud"])
    assert rows.fraud.sum() == data["is_fraud"].sum()
    assert (~rows.fraud).sum() == 500
    assert rows.weight.sum() == pytest.approx(5_000)
    whole = {
        s.name: s
        for s in separations(Sample(values.to_numpy(), data["is_fraud"].to_numpy(), np.ones(5_000), rows.names))
    }
    for found in separations(rows):
        if not math.isnan(found.auc):
            assert found.auc == pytest.approx(whole[found.name].auc, abs=0.05)
            assert found.missing == pytest.approx(whole[found.name].missing, abs=0.06)
    assert "(a random sample)" in parts_of(values, data["is_fraud"].to_list())["separation"].reading


def test_correlations_are_those_of_scipy_on_complete_pairs() -> None:
    data = history(rows=800)
    values = features(data).with_columns(alike=pl.col("half_missing") * 2 + 0.3 * pl.col("noise"))
    ranking = separations(sample(values, data["is_fraud"]))
    chart = correlations([s for s in ranking if not math.isnan(s.auc)], values)
    assert isinstance(chart, Chart)
    heat = chart.figure.data[0]
    assert "constant" not in heat.x
    for i, first in enumerate(heat.y):
        for j, second in enumerate(heat.x):
            pair = values.select(a=pl.col(first), b=pl.col(second)).filter(pl.all_horizontal(pl.all().is_finite()))
            expected = spearmanr(pair["a"].to_numpy(), pair["b"].to_numpy()).statistic
            assert heat.z[i][j] == pytest.approx(expected, abs=1e-6)
    assert "half_missing" in chart.reading
    assert "alike" in chart.reading


def test_histograms_are_shares_of_the_class() -> None:
    data = history()
    rows = sample(features(data), data["is_fraud"])
    chart = distributions([s for s in separations(rows) if not math.isnan(s.auc)], rows)
    assert isinstance(chart, Chart)
    for outline in chart.figure.data:
        assert sum(outline.y) == pytest.approx(100)


@pytest.mark.parametrize("flag", [False, True])
def test_one_class_gives_a_note(flag: bool) -> None:
    data = history(rows=50, is_fraud=[flag] * 50)
    parts = parts_of(features(data), [flag] * 50)
    assert isinstance(parts["separation"], Note)


def test_features_without_any_value_or_change_give_notes() -> None:
    labels = [i % 5 == 0 for i in range(50)]
    empty = parts_of(pl.DataFrame({"empty": np.full(50, np.nan, np.float32)}), labels)
    assert isinstance(empty["distributions"], Note)
    assert isinstance(empty["correlations"], Note)
    assert "1 feature without a value" in empty["separation"].reading
    constant = parts_of(pl.DataFrame({"constant": np.ones(50, np.float32)}), labels)
    assert isinstance(constant["distributions"], Chart)
    assert isinstance(constant["correlations"], Note)


def test_a_value_in_one_class_only_is_no_separation() -> None:
    labels = [i % 5 == 0 for i in range(50)]
    values = pl.DataFrame({"a": [1.0 if bad else math.nan for bad in labels]}, schema={"a": pl.Float32})
    [found] = separations(sample(values, pl.Series(labels)))
    assert math.isnan(found.auc)
    assert found.missing == pytest.approx(0.8)
    assert found.missing_frauds == 0


def test_infinite_values_count_as_missing() -> None:
    labels = [i % 5 == 0 for i in range(50)]
    values = pl.DataFrame({"a": [math.inf if i < 10 else float(i) for i in range(50)]}, schema={"a": pl.Float32})
    [found] = separations(sample(values, pl.Series(labels)))
    assert found.missing == pytest.approx(0.2)


def test_many_features_show_the_best() -> None:
    labels = [i % 4 == 0 for i in range(200)]
    generator = np.random.default_rng(0)
    values = pl.DataFrame({f"f{i}": generator.normal(size=200).astype(np.float32) for i in range(70)})
    part = parts_of(values, labels)["separation"]
    assert isinstance(part, Chart)
    assert "The figure shows the best 50" in part.reading
    assert len(part.figure.data[2].y) == 50
