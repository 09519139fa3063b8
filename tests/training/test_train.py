from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import onnx
import polars as pl
import pytest

from features.batch import compute
from features.bundle import load as load_bundle
from features.definitions import FEATURES, feature_set
from features.errors import InvalidHistory
from tests.training.fitted import simulated
from training import train as train_module
from training.export import build, score
from training.progress import Stages
from training.simulate import Simulation, simulate, write
from training.split import DAY
from training.train import Options, Trained, main, manifest, train

AS_OF = datetime(2018, 5, 30, 9, 30, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory of the test's own, and the root logger as it was."""
    monkeypatch.chdir(tmp_path)
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers


@pytest.fixture(scope="module")
def history_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated history under Kaggle-style names, as CSV."""
    file = tmp_path_factory.mktemp("history") / "history.csv"
    names = {"transaction_id": "trans_num", "account_id": "cc_num", "merchant_id": "merchant", "amount": "amt"}
    history = simulate(Simulation(accounts=150, days=75, intensity=3))
    renamed = history.rename(names | {"timestamp": "trans_date_trans_time", "transaction_type": "category"})
    write(renamed.drop("location", "device_id"), file)
    return file


def trained(history: pl.DataFrame, features: pl.DataFrame | None = None, **options: object) -> Trained:
    features = compute(history) if features is None else features
    return train(history, features, Options(**options), Stages())  # type: ignore[arg-type]


@pytest.mark.parametrize("dated", [True, False], ids=["labels with a date", "labels after the delay"])
def test_as_of_uses_nothing_that_came_later(dated: bool) -> None:
    """A history cut at T, without the labels of after T, gives the same model; so does one with another future."""
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
        assert same.baseline == pytest.approx(whole.baseline, nan_ok=True)
        ours, theirs = (manifest(t, h, FEATURES, Options(as_of=AS_OF)) for t, h in ((whole, history), (same, cut)))
        assert (ours.data_from, ours.data_until, ours.rows) == (theirs.data_from, theirs.data_until, theirs.rows)
    assert whole.evaluation.split.test is not None
    assert of_cut.evaluation.split.test is None


def test_the_command_makes_a_bundle_that_loads(
    history_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = Path(train_module.__file__).parent / "columns" / "kaggle.toml"
    words = [str(history_file), "--columns", str(kaggle), "--column", "fraud_scenario=fraud_scenario"]
    words += ["--models", "models", "--no-tracking", "--alerts-per-day", "5", "--label-delay", "5"]
    assert main(words) == 0
    out = capsys.readouterr().out
    bundle = load_bundle(Path("models/current"))
    found = bundle.manifest
    assert bundle.path == (tmp_path / "models" / found.version).resolve()
    assert str(Path("models") / found.version / "report.html") in out
    assert {file.name for file in bundle.path.iterdir()} == {
        "model.onnx",
        "manifest.json",
        "metrics.json",
        "report.html",
    }
    assert found.features == [f.name for f in feature_set(5 * DAY)]
    assert found.label_delay_seconds == 5 * 86_400
    assert found.alert_budget == "5 alerts a day"
    assert found.data_from.startswith("2018-04-01T")
    assert found.data_until.startswith("2018-06-07T")
    assert found.frauds < found.rows < 23_000
    assert set(found.libraries) >= {"xgboost-cpu", "onnxruntime", "polars"}
    assert found.opset == onnx.load_from_string(bundle.model).opset_import[0].version
    assert len(found.baseline) == len(found.features)
    assert found.baseline[0] is not None
    assert found.baseline[found.features.index("account_device_new_30d")] is None

    metrics = json.loads((bundle.path / "metrics.json").read_text())
    assert metrics["champion"] == found.champion
    assert metrics["held_out"][found.champion]["auc_roc"] == pytest.approx(found.metrics["auc_roc"])
    assert metrics["largest_difference_onnx_library"] <= 1e-5
    assert "plotly" in (bundle.path / "report.html").read_text()


def test_the_published_graph_alerts_as_the_evaluation_says() -> None:
    history, features = simulated()
    result = trained(history, features)
    evaluation = result.evaluation
    scores, _ = score(result.graph, evaluation.features)
    expected = evaluation.candidates[evaluation.champion] >= evaluation.threshold
    assert expected.any()
    assert ((scores >= evaluation.threshold) == expected).all()


def test_a_graph_that_differs_is_not_published(
    history_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def wrong(models: object, champion: str, calibration: object) -> bytes:
        model = onnx.load_from_string(build(models, champion, calibration))  # type: ignore[arg-type]
        (intercept,) = (tensor for tensor in model.graph.initializer if tensor.name == "intercept")
        value = onnx.numpy_helper.to_array(intercept) + 1
        intercept.CopyFrom(onnx.numpy_helper.from_array(value, "intercept"))
        return bytes(model.SerializeToString())

    monkeypatch.setattr(train_module, "build", wrong)
    kaggle = Path(train_module.__file__).parent / "columns" / "kaggle.toml"
    assert main([str(history_file), "--columns", str(kaggle), "--models", "models", "--no-tracking"]) == 2
    assert "nothing was published" in capsys.readouterr().err
    assert not Path("models").exists()


def test_without_data_a_history_is_simulated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_module, "SIMULATION", Simulation(accounts=150, days=75, intensity=3))
    assert main(["--no-tracking"]) == 0
    assert Path("artifacts/simulated.parquet").exists()
    assert load_bundle(Path("artifacts/models/current")).manifest.frauds > 100
    assert "Simulating" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.parquet"], "none.parquet cannot be read"),
        (["none.parquet", "--column", "amount"], "is not name=column"),
        (["none.parquet", "--alert-rate", "50"], "must lie between 0 and 1"),
        (["none.parquet", "--label-delay", "0"], "--label-delay 0.0 must be more than 0"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--no-tracking"]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert out == ""


@pytest.mark.parametrize("text", ["2018-13-01", "yesterday"])
def test_an_instant_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["none.parquet", "--as-of", text])
    assert stopped.value.code == 2
    assert "is not a day or an instant such as 2018-08-08" in capsys.readouterr().err


def test_a_history_with_few_frauds_is_refused() -> None:
    history, features = simulated()
    rows = pl.int_range(pl.len()) % 200 == 0
    with pytest.raises(InvalidHistory, match=r"the training days have \d frauds known by then"):
        trained(history.with_columns(is_fraud=pl.col("is_fraud") & rows), features)
