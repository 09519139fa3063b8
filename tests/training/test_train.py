from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from features.bundle import load as load_bundle
from features.definitions import feature_set
from features.history import MAPS
from training import pipeline
from training import train as train_module
from training.export import build
from training.simulate import Simulation, simulate, write
from training.split import DAY
from training.train import main


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


def test_the_command_makes_a_bundle_that_loads(
    history_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = MAPS / "kaggle.toml"
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

    metrics = json.loads((bundle.path / "metrics.json").read_text())
    assert metrics["champion"] == found.champion
    assert metrics["held_out"][found.champion]["auc_roc"] == pytest.approx(found.metrics["auc_roc"])
    assert metrics["largest_difference_onnx_library"] <= 1e-5
    assert "plotly" in (bundle.path / "report.html").read_text()


def test_a_graph_that_differs_is_not_published(
    history_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def wrong(models: object, champion: str, calibration: object) -> bytes:
        model = onnx.load_from_string(build(models, champion, calibration))  # type: ignore[arg-type]
        (intercept,) = (tensor for tensor in model.graph.initializer if tensor.name == "intercept")
        value = onnx.numpy_helper.to_array(intercept) + 1
        intercept.CopyFrom(onnx.numpy_helper.from_array(value, "intercept"))
        return bytes(model.SerializeToString())

    monkeypatch.setattr(pipeline, "build", wrong)
    kaggle = MAPS / "kaggle.toml"
    assert main([str(history_file), "--columns", str(kaggle), "--models", "models", "--no-tracking"]) == 2
    assert "nothing was published" in capsys.readouterr().err
    assert list(Path("models").iterdir()) == []


def test_without_data_a_history_is_simulated_and_a_threshold_of_least_cost_says_what_it_saves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_module, "SIMULATION", Simulation(accounts=150, days=75, intensity=3))
    assert main(["--no-tracking", "--review-cost", "5"]) == 0
    assert Path("artifacts/simulated.parquet").exists()
    out, err = capsys.readouterr()
    assert "Simulating" in err
    bundle = load_bundle(Path("artifacts/models/current"))
    manifest, found = bundle.manifest, bundle.manifest.metrics
    assert manifest.frauds > 100
    assert manifest.alert_budget == "least cost at 5 a review"
    assert 0 < found["saved"] == pytest.approx(found["cost_without_alerts"] - found["cost"])
    assert f"Saved       {found['saved']:,.2f}: {found['cost']:,.2f} instead of" in out
    assert 'id="cost"' in (bundle.path / "report.html").read_text()


def test_a_threshold_is_chosen_for_one_thing() -> None:
    with pytest.raises(SystemExit):
        main(["none.parquet", "--review-cost", "5", "--alert-rate", "0.01"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.parquet"], "none.parquet cannot be read"),
        (["none.parquet", "--column", "amount"], "is not name=column"),
        (["none.parquet", "--alert-rate", "50"], "must lie between 0 and 1"),
        (["none.parquet", "--review-cost", "0"], "--review-cost 0.0 must be above 0"),
        (["none.parquet", "--label-delay", "0"], "--label-delay 0.0 must be more than 0"),
        (["none.parquet", "--label-delay", "nan"], "--label-delay nan must be more than 0"),
        (["none.parquet", "--seed", "-1"], "--seed -1 must be a whole number from 0"),
        (["none.parquet", "--models", "/dev/null/models"], "give a folder for bundles"),
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


@pytest.mark.parametrize("text", ["2018-13-01", "yesterday", "0001-01-01"])
def test_an_instant_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["none.parquet", "--as-of", text])
    assert stopped.value.code == 2
    assert "argument --as-of: " in capsys.readouterr().err
