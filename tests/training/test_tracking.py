from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import plotly.graph_objects as go
import pytest
from mlflow import MlflowClient

from training import tracking
from training.tracking import server_command, track, uri


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a store, and no server set."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", *tracking.FIRST_CALL):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"onnx")
    return folder


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


def track_something(bundle: Path) -> bool:
    return track(
        "run-1",
        parameters={"seed": 3, "long": "x" * 10_000},
        metrics={"xgboost": {"auc_roc": 0.9, "precision_at_budget": float("nan")}},
        figures={"roc": go.Figure()},
        bundle=bundle,
    )


# MLflow, its database layer and what they import are not held to this project's standard of warnings.
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_kept_in_a_local_store(bundle: Path, empty_folder: Path) -> None:
    assert track_something(bundle)
    assert track_something(bundle)  # the second finds the experiment that the first made
    client = MlflowClient(uri())
    experiment = client.get_experiment_by_name("vigie")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    data, info = runs[0].data, runs[0].info
    assert (info.run_name, info.status) == ("run-1", "FINISHED")
    assert data.params["seed"] == "3"
    assert data.metrics == {"xgboost.auc_roc": 0.9}
    assert {file.path for file in client.list_artifacts(info.run_id)} == {"bundle", "plots"}
    assert [file.path for file in client.list_artifacts(info.run_id, "bundle")] == ["bundle/model.onnx"]
    assert [file.path for file in client.list_artifacts(info.run_id, "plots")] == ["plots/roc.html"]
    assert {path.name for path in empty_folder.iterdir()} == {"bundle", "mlruns"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_a_dead_server_is_a_warning_within_seconds(
    kind: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, silent_server: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}" if kind == "refuses" else silent_server)
    started = time.monotonic()
    assert not track_something(bundle)
    assert time.monotonic() - started < 8
    (warning,) = (record for record in caplog.records if record.name == "training.tracking")
    assert warning.levelno == logging.WARNING
    assert uri() in warning.getMessage()
    assert f"the bundle in {bundle} is complete" in warning.getMessage()


@pytest.mark.filterwarnings("ignore")
def test_limits_that_the_user_has_set_stay(bundle: Path, monkeypatch: pytest.MonkeyPatch, silent_server: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    started = time.monotonic()
    assert not track_something(bundle)
    assert time.monotonic() - started < 2.9


def test_mlflow_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, training.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_the_page_is_served_from_where_runs_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server_command(5001)[1:6] == ["-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlruns/mlflow.db"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert tracking.main([]) == 0
    assert "https://mlflow.example" in capsys.readouterr().out
