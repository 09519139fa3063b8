"""Who is measured, and how each is started: always the same way, as a child process that ends when it is killed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.arrivals import Arrivals
from bench.peers import environments
from bench.peers.scoring import Place
from bench.processes import Program
from bench.traffic import PARTITIONS
from features.errors import ContenderFailure

Command = tuple[list[str], Mapping[str, str]]
INPUTS: Final = {"compression.type": "producer"}
OUTPUTS: Final = {"message.timestamp.type": "LogAppendTime"}  # so that the broker's clock says when a score was there


@dataclass(frozen=True)
class Contender:
    """One of those that are measured.

    ``tolerance``: how far its scores may lie from the batch's. ``least``: transactions of a run, however slow it is.
    ``alerts``: whether it writes alerts, beside the scores.
    """

    name: str
    title: str
    guarantee: str
    command: Callable[[Place], Command]
    tolerance: float = 1e-6
    least: int = 1_000
    alerts: bool = False


def _vigie(processes: int, *, recovery: bool) -> Callable[[Place], Command]:
    def command(place: Place) -> Command:
        words = [sys.executable, "-m", "flows", "-p", str(processes)]
        if recovery:
            words += ["-r", str(place.state / "recovery")]
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": place.bootstrap,
            "KAFKA_GROUP_ID": place.group,
            "VIGIE_MODEL": str(place.model),
            "VIGIE_LOG_DIRECTORY": str(place.state / "logs"),
            "VIGIE_TRANSACTIONS_TOPIC": place.transactions,
            "VIGIE_SCORED_TOPIC": place.scored,
            "VIGIE_ALERTS_TOPIC": place.alerts,
            **{f"VIGIE_{name}_TOPIC": f"{name.lower()}-{place.scored}" for name in ("LABELS", "REJECTED")},
        }
        return words, {**environments.environment(environments.here()), **variables}

    return command


def _ours(*words: str) -> Callable[[Place], Command]:
    return lambda _: ([sys.executable, *words], environments.environment(environments.here()))


def _stock(place: Place) -> Command:
    recovery = place.state / "recovery"
    recovery.mkdir()
    made = [sys.executable, "-m", "bytewax.recovery", str(recovery), "1"]
    words = [sys.executable, "-m", "bytewax.run", "bench.peers.bytewax_stock:flow", "-r", str(recovery), "-s", "1"]
    return ["sh", "-c", f"{_quoted(made)} && exec {_quoted([*words, '-b', '0'])}"], environments.environment(
        environments.here()
    )


def _quoted(words: Sequence[str]) -> str:
    return " ".join(f"'{word}'" for word in words)


def _quix(_place: Place) -> Command:
    python = environments.python_of("quix")
    return [str(python), "-m", "bench.peers.quix"], environments.environment(python)


def _flink(parallelism: int) -> Callable[[Place], Command]:
    def command(_: Place) -> Command:
        python, connector = environments.python_of("flink"), environments.flink_connector()
        variables = {
            "BENCH_FLINK_CONNECTOR": str(connector),
            "BENCH_FLINK_PARALLELISM": str(parallelism),
            "PYFLINK_CLIENT_EXECUTABLE": str(python),
        }
        return [str(python), "-m", "bench.peers.flink"], {**environments.environment(python), **variables}

    return command


VIGIE: Final = "vigie-1"
TWO: Final = "vigie-2"
UNSAVED: Final = "vigie-1-unsaved"
OURS: Final = frozenset({VIGIE, TWO, UNSAVED})
NAIVE, LOOP, QUIX, FLINK, STOCK = "naive", "loop", "quix", "flink", "bytewax-stock"
LONG: Final = 200_000  # transactions of those that score them in lumps: a short run would begin or end within one
ALL: Final = (
    Contender(
        VIGIE, "Vigie, 1 process", "exactly once, saved each second", _vigie(1, recovery=True), least=LONG, alerts=True
    ),
    Contender(
        TWO, "Vigie, 2 processes", "exactly once, saved each second", _vigie(2, recovery=True), least=LONG, alerts=True
    ),
    Contender(
        UNSAVED,
        "Vigie, 1 process, no recovery",
        "none after a crash",
        _vigie(1, recovery=False),
        least=LONG,
        alerts=True,
    ),
    Contender(LOOP, "Hand-written loop", "none", _ours("-m", "bench.peers.loop"), least=LONG),
    Contender(STOCK, "Bytewax, stock connectors", "at least once, saved each second", _stock),
    # A JVM compiles while it runs: in short runs PyFlink takes half as much CPU again for each score.
    Contender(FLINK, "PyFlink", "at least once, saved each second", _flink(1), least=10_000),
    Contender(QUIX, "Quix Streams", "at least once, saved each 5 seconds", _quix),
    Contender(NAIVE, "Naive: a message, a row", "none", _ours("-m", "bench.peers.naive"), 1e-5),
)


class Course:
    """What contenders run on: a Kafka, a topic that all read, a model, a folder."""

    def __init__(self, bootstrap: str, model: Path, folder: Path) -> None:
        self.bootstrap = bootstrap
        self._model = model
        self._folder = folder
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._runs = 0

    def create(self, *topics: str, config: Mapping[str, str] = INPUTS) -> None:
        """Makes topics."""
        made = self._admin.create_topics([NewTopic(t, PARTITIONS, 1, config=dict(config)) for t in topics])
        for future in made.values():
            future.result()

    def start(self, contender: Contender, transactions: str, *, keep: bool = False, live: bool = False) -> Run:
        """Starts a contender on the topic, from its beginning, with outputs of its own.

        ``live``: for latency, where a contender needs another setting for that.
        """
        self._runs += 1
        name = f"{contender.name}-{self._runs}"
        state = Path(mkdtemp(prefix=f"{name}-", dir=self._folder))
        place = Place(self.bootstrap, transactions, f"scored-{name}", self._model.resolve(), state, name)
        command, variables = contender.command(place)
        self.create(place.scored, config=OUTPUTS)
        arrivals = Arrivals(self.bootstrap, place.scored, keep=keep)
        program = Program(
            contender.name, command, {**variables, **place.environment(), "BENCH_LIVE": str(int(live))}, state
        )
        return Run(contender, place, program, arrivals)


@dataclass(frozen=True)
class Run:
    """A contender at work. To be used as a context, which kills it."""

    contender: Contender
    place: Place
    program: Program
    arrivals: Arrivals

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.arrivals.close()

    def failed(self, why: str) -> ContenderFailure:
        """An error with what the contender has printed."""
        return ContenderFailure(f"{self.contender.name} {why}. It said:\n{self.program.said()}")
