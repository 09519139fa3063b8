"""What MLflow keeps of a training: parameters, metrics, plots and the bundle.

Runs go to ``MLFLOW_TRACKING_URI``, or to ``mlruns/mlflow.db`` in the working directory; the experiment is
``MLFLOW_EXPERIMENT_NAME``, or ``vigie``. A store that cannot be reached costs a warning, never the training.
``python -m training.tracking`` serves MLflow's page on the local store.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

LOCAL: Final = Path("mlruns")
EXPERIMENT: Final = "vigie"
# MLflow's own defaults would wait for minutes: the first call is short of patience, the later ones less so.
FIRST_CALL: Final = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
LATER_CALLS: Final = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_LONGEST_PARAMETER: Final = 500


def track(
    run: str,
    *,
    parameters: Mapping[str, object],
    metrics: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, go.Figure],
    bundle: Path,
) -> bool:
    """Logs one training under the name ``run``; whether that worked. Figures become ``plots/<name>.html``.

    A metric is logged as ``<candidate>.<metric>``; NaN, which means that a metric has no value, is left out.
    """
    try:
        with _patience(FIRST_CALL):
            client, experiment = _connect()
        with _patience(LATER_CALLS):
            _log(client, experiment, run, parameters=parameters, metrics=metrics, figures=figures, bundle=bundle)
    except Exception as error:  # noqa: BLE001 - MLflow lets through what its store, its server or the network raise
        log.warning(
            "MLflow at %s did not take the run (%s); the bundle in %s is complete without it. "
            "Set MLFLOW_TRACKING_URI to a server that answers, or leave it unset for a local store.",
            uri(),
            str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            bundle,
        )
        return False
    return True


def uri() -> str:
    """Where runs go."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{LOCAL / 'mlflow.db'}"


def _connect() -> tuple[MlflowClient, str]:
    """A client and the id of the experiment, made if it is not there yet."""
    from mlflow import MlflowClient  # noqa: PLC0415 - it takes seconds to import

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    if local:
        LOCAL.mkdir(exist_ok=True)
    client = MlflowClient(tracking_uri=uri())
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is not None:
        return client, str(found.experiment_id)
    artifacts = (LOCAL / "artifacts").resolve().as_uri() if local else None
    return client, str(client.create_experiment(name, artifact_location=artifacts))


def _log(
    client: MlflowClient,
    experiment: str,
    name: str,
    *,
    parameters: Mapping[str, object],
    metrics: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, go.Figure],
    bundle: Path,
) -> None:
    """One run, closed as finished or as failed."""
    from mlflow.entities import Metric, Param  # noqa: PLC0415 - as above

    run = client.create_run(experiment, run_name=name)
    identity = run.info.run_id
    status = "FAILED"
    try:
        flat = {f"{c}.{m}": value for c, values in metrics.items() for m, value in values.items()}
        started = int(run.info.start_time)
        client.log_batch(
            identity,
            metrics=[Metric(key, value, started, 0) for key, value in flat.items() if math.isfinite(value)],
            params=[Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in parameters.items()],
        )
        for key, figure in figures.items():
            client.log_figure(identity, figure, f"plots/{key}.html")
        client.log_artifacts(identity, str(bundle), "bundle")
        status = "FINISHED"
    finally:
        client.set_terminated(identity, status)


@contextmanager
def _patience(limits: Mapping[str, str]) -> Iterator[None]:
    """Sets MLflow's limits for a while, except those that the user has set."""
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def server_command(port: int) -> list[str]:
    """The command that serves MLflow's page on the store that ``uri`` names."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri(),
        "--port",
        str(port),
        "--workers",
        "1",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; it becomes MLflow's server, or names the server that is used already."""
    parser = argparse.ArgumentParser(prog="python -m training.tracking", description="MLflow's page on the trainings.")
    parser.add_argument("--port", type=int, default=5000, help="where the page is served (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not uri().startswith("http"):
        LOCAL.mkdir(exist_ok=True)
        command = server_command(options.port)
        # The server would start a pool of workers for jobs that nobody gives it.
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        os.execv(command[0], command)  # noqa: S606 - it is to take this process's place
    print(f"MLFLOW_TRACKING_URI is {uri()}: open that page")
    return 0


if __name__ == "__main__":
    sys.exit(main())
