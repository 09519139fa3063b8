from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from features.batch import compute
from features.definitions import FEATURES
from features.errors import InvalidHistory
from tests.training.fitted import simulated
from training.export import score
from training.fit import FOREST_PARAMETERS, XGBOOST_PARAMETERS
from training.pipeline import Options, Trained, manifest, train
from training.progress import Stages
from training.split import DAY

AS_OF = datetime(2018, 5, 30, 9, 30, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


def trained(history: pl.DataFrame, features: pl.DataFrame | None = None, **options: object) -> Trained:
    features = compute(history) if features is None else features
    return train(history, features, Options(**options), Stages())  # type: ignore[arg-type]


@pytest.mark.parametrize("dated", [True, False], ids=["labels with a date", "labels after the delay"])
def test_as_of_uses_nothing_that_came_later(dated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history cut at T, without the labels of after T, gives the same model; so does one with another future."""
    # Of six trainings; a few trees show as well as many whether their rows are the same.
    monkeypatch.setitem(XGBOOST_PARAMETERS, "n_estimators", 15)
    monkeypatch.setitem(FOREST_PARAMETERS, "n_estimators", 15)
    history, features = simulated()
    if not dated:
        history = history.with_columns(labelled_at=pl.lit(None, INSTANT))
        features = compute(history)
    whole = trained(history, features, as_of=AS_OF)

    label_known = pl.col("labelled_at").fill_null(pl.col("timestamp") + 7 * DAY) <= AS_OF
    cut = history.filter(pl.col("timestamp") < AS_OF).with_columns(
        is_fraud=pl.col("is_fraud") & label_known, labelled_at=pl.when(label_known).then("labelled_at")
    )
    assert cut.height < history.height
    assert cut["is_fraud"].sum() < history.filter(pl.col("timestamp") < AS_OF)["is_fraud"].sum()
    of_cut = trained(cut, as_of=AS_OF)

    later = pl.col("timestamp") >= AS_OF
    other = history.with_columns(
        amount=pl.when(later).then(pl.col("amount") * 7 + 1).otherwise("amount"),
        account_id=pl.when(later).then(pl.lit("someone")).otherwise("account_id"),
        is_fraud=pl.when(later | ~label_known).then(~pl.col("is_fraud")).otherwise("is_fraud"),
        # A label that turned up unknown at T stays so.
        labelled_at=pl.when(later | ~label_known)
        .then(pl.lit(datetime(2018, 7, 1, tzinfo=UTC), INSTANT))
        .otherwise("labelled_at"),
    )
    of_other = trained(other, as_of=AS_OF)
    for same in (of_cut, of_other):
        assert same.graph == whole.graph
        assert same.evaluation.threshold == whole.evaluation.threshold
        assert same.evaluation.champion == whole.evaluation.champion
        ours, theirs = (manifest(t, h, FEATURES, Options(as_of=AS_OF)) for t, h in ((whole, history), (same, cut)))
        assert (ours.data_from, ours.data_until, ours.rows) == (theirs.data_from, theirs.data_until, theirs.rows)
    assert whole.evaluation.split.test is not None
    assert of_cut.evaluation.split.test is None


def test_the_published_graph_alerts_as_the_evaluation_says() -> None:
    history, features = simulated()
    result = trained(history, features)
    evaluation = result.evaluation
    scores, _ = score(result.graph, evaluation.features)
    expected = evaluation.candidates[evaluation.champion] >= evaluation.threshold
    assert expected.any()
    assert ((scores >= evaluation.threshold) == expected).all()


def test_a_history_with_few_frauds_is_refused() -> None:
    history, features = simulated()
    rows = pl.int_range(pl.len()) % 200 == 0
    with pytest.raises(InvalidHistory, match=r"the training days have \d frauds known by then"):
        trained(history.with_columns(is_fraud=pl.col("is_fraud") & rows), features)
