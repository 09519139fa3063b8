"""The demo where there is no Java: it says so, runs to its end, and is honest about how it ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows import demo
from flows.alerts import Outcome
from flows.replay import History
from flows.settings import Settings
from tests.flows import bundles
from training.simulate import Simulation, simulate, write

ROOT = Path(__file__).parents[2]
# A bank of a fifth of the size learns in a third of the time.
SMALL = "import sys; from flows import demo; demo.ACCOUNTS, demo.A_DAY = 200, 400; sys.exit(demo.main(sys.argv[1:]))"
DAYS = 45


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and the environment of a machine without Java."""
    for name in [name for name in os.environ if name.startswith(("KAFKA_", "VIGIE_", "BYTEWAX_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_java_it_runs_on_the_mock_and_says_so(no_java: Path) -> None:
    command = [sys.executable, "-c", SMALL, "--seconds", "5", "--rate", "400"]
    done = subprocess.run(command, cwd=no_java, capture_output=True, text=True, timeout=170, check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No real Kafka here (no java on PATH" in said
    assert "librdkafka's mock cluster" in said
    sent, scored = re.findall(r"transactions sent / scored *│ ([\d,]+) / ([\d,]+)", said)[0]
    assert sent == scored
    assert 1500 < int(sent.replace(",", "")) <= 2000
    alerts = int(re.findall(r"│ alerts *│ (\d+)", said)[0])
    shown = [line for line in done.stdout.splitlines() if re.match(r"A\d{7}  [\d,.]+  \d\.\d{3}  ", line)]
    assert 1 <= len(shown) == alerts
    assert re.search(r"precision: alerts that are frauds *│ [\d.]+%", said)
    assert re.search(r"recall: frauds that were found *│ [\d.]+% of \d+", said)
    assert re.search(r"produce to alert *│ p50 \d+ ms, p99 \d+ ms", said)
    assert "Traceback" not in done.stderr
    assert not (no_java / ".cache/demo/kafka").exists()


# The rest of it takes a model for granted.


@pytest.fixture
def trained(no_java: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo with a history and a bundle that are there at once."""
    begin = datetime.now(UTC).date() - timedelta(days=DAYS)
    write(simulate(Simulation(accounts=60, days=DAYS, start=begin, intensity=4.0)), no_java / "history.parquet")

    def call(module: str, *words: object) -> None:
        if module == "training.simulate":
            (no_java / "history.parquet").rename(str(words[0]))
        else:
            bundles.make(Path(str(words[words.index("--models") + 1])))

    monkeypatch.setattr(demo, "_call", call)
    monkeypatch.setattr(demo, "DAYS", DAYS)
    monkeypatch.setattr(demo, "A_DAY", 120)
    return no_java


Live = Callable[[History, Settings, float, "subprocess.Popen[bytes]"], Outcome]


def with_a_flow_that_dies(live: Live) -> Live:
    def dying(history: History, settings: Settings, rate: float, flow: subprocess.Popen[bytes]) -> Outcome:
        flow.kill()
        return live(history, settings, rate, flow)

    return dying


@pytest.mark.usefixtures("trained")
def test_a_flow_that_dies_while_transactions_come_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_live", with_a_flow_that_dies(demo._live))
    assert demo.main(["--seconds", "2", "--rate", "100"]) == 2
    out, err = capsys.readouterr()
    assert "demo: the flow ended with status -9; it said last:" in err
    assert "Summary" not in out


def test_a_flow_that_cannot_start_is_a_failure(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BYTEWAX_RECOVERY_DIRECTORY", str(trained / "nowhere"))  # of the flow alone
    assert demo.main(["--seconds", "2", "--rate", "100"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"demo: the flow ended with status \d+; it said last:\n", err)
    assert "recovery" in err


@pytest.mark.usefixtures("trained")
def test_frauds_that_nobody_finds_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "frauds", lambda _: {"nobody": "card_theft"})
    assert demo.main(["--seconds", "2", "--rate", "100"]) == 1
    out = capsys.readouterr().out
    assert "0.0% of 1" in out


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--rate", "-1"], ["--seconds", "1e9"]])
def test_what_the_bank_does_not_give_is_refused(
    words: list[str], no_java: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(words) == 2
    assert re.fullmatch(r"demo: .*ask for less\n", capsys.readouterr().err)
    assert list(no_java.iterdir()) == []
