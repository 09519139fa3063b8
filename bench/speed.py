"""Vigie beside what a user would take instead, on one Apache Kafka, in one run.

    python -m bench.speed [--quick] [--soak MINUTES]

The same transactions, features and model for all. First each contender's scores are held against the batch's; then all
score a backlog, in turn, in several rounds; then comes live traffic on a fixed schedule, what features cost as windows
and accounts grow, and what states weigh. Writes ``artifacts/bench/speed.json``, ``.html`` and ``.md``.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final, NoReturn

import msgspec
from rich.console import Console

from bench.contenders import ALL, FLINK, LOOP, NAIVE, OURS, QUIX, STOCK, TWO, UNSAVED, VIGIE, Contender, Course
from bench.growth import DAYS, EVENTS, TYPICAL, WEIGHED, cost, weight
from bench.latency import Live
from bench.machine import log_folder, machine
from bench.soak import soak
from bench.speed_model import model, truth
from bench.speed_page import page
from bench.speed_results import Contestant, Growth, Holding, Latency, Outcome, Soak, Speed
from bench.speed_tables import WIDTH, markdown, show
from bench.throughput import beside, check, measure
from bench.traffic import Traffic, send
from features.bundle import load
from features.definitions import Entity
from features.errors import ContenderFailure, InvalidSetting, VigieError
from flows.local_kafka import LONG_LIVED, LocalKafka, free_port

FOLDER: Final = Path("artifacts/bench")
ACCOUNTS: Final = 2_000  # of the backlog
CHECKED: Final = 2_000  # transactions whose scores are held against the batch's
CHECKED_ACCOUNTS: Final = 100
SHARES: Final = (0.25, 0.5, 0.75)
MOST: Final = 500_000  # transactions of a run


@dataclass(frozen=True)
class Size:
    """How much is measured. ``seconds``: of a run of throughput; ``live``: of counted live traffic."""

    contenders: tuple[str, ...]
    rounds: int
    seconds: float
    live: float
    accounts: tuple[int, ...]
    shares: tuple[float, ...]
    peers_live: tuple[str, ...]
    million: int


FULL: Final = Size(
    tuple(c.name for c in ALL), 3, 5.0, 10.0, (1_000, 10_000, 100_000), SHARES, (LOOP, STOCK, QUIX, FLINK, NAIVE),
    1_000_000,
)  # fmt: skip
QUICK: Final = Size((VIGIE, UNSAVED, LOOP, STOCK, QUIX, NAIVE), 1, 4.0, 6.0, (1_000,), (0.5,), (), 100_000)


class Bench:
    """One run of the benchmark."""

    def __init__(self, size: Size, given: Path | None, log: Path, console: Console) -> None:
        self._size = size
        self._log = log  # the broker's
        self._console = console
        self._traffic = Traffic(ACCOUNTS)
        self.model = model(self._traffic, given)
        self._rates: dict[str, float] = {}
        self._runs: dict[str, list[Speed]] = {}
        self._beside: list[float] = []
        self.left_out = {c.name: "not part of the quick run" for c in ALL if c.name not in size.contenders}

    def run(self, course: Course, broker: int) -> Outcome:
        """All of it but the soak."""
        entered = [c for c in ALL if c.name in self._size.contenders]
        self._check(course, entered)
        self._race(course, [c for c in entered if c.name in self._rates], broker)
        return self._outcome(latencies=list(self._live(course)), growth=self._growth(), holdings=self._holdings())

    def soaked(self, course: Course, minutes: float) -> Outcome:
        """Only the flow's memory, under steady traffic at half of what it can do."""
        flow = next(c for c in ALL if c.name == VIGIE)
        found = soak(course, flow, minutes * 60, self._console)
        self.left_out = {}
        return self._outcome(latencies=[], growth=[], holdings=[], soak=found)

    def _outcome(
        self, latencies: list[Latency], growth: list[Growth], holdings: list[Holding], soak: Soak | None = None
    ) -> Outcome:
        contestants = [
            Contestant(name=c.name, title=c.title, guarantee=c.guarantee, runs=self._runs[c.name])
            for c in ALL
            if self._runs.get(c.name)
        ]
        bundle = load(self.model)
        return Outcome(
            machine=machine(self._log),
            traffic=self._traffic.describe(max((r.scored for runs in self._runs.values() for r in runs), default=0)),
            model=f"{bundle.manifest.champion}, {len(bundle.features)} features, {len(bundle.model) / 1e6:.1f} MB",
            checked=CHECKED,
            contestants=contestants,
            left_out=self.left_out,
            latencies=latencies,
            growth=growth,
            holdings=holdings,
            soak=soak,
            beside=self._beside,
        )

    def saturation(self, name: str) -> float:
        """Scores a second of a contender, the median so far."""
        runs = sorted(run.throughput for run in self._runs[name])
        return runs[len(runs) // 2]

    def _check(self, course: Course, entered: Sequence[Contender]) -> None:
        traffic = Traffic(CHECKED_ACCOUNTS)
        course.create("checked")
        send(course.bootstrap, "checked", traffic, CHECKED)
        scores = truth(self.model, traffic, CHECKED)
        for contender in entered:
            wrong = None
            with self._excused(contender):
                self._rates[contender.name], wrong = check(course, contender, "checked", scores)
                self._console.print(wrong or f"{contender.title}: {CHECKED:,} scores are the batch's")
            if wrong:
                raise ContenderFailure(wrong)

    def _race(self, course: Course, entered: Sequence[Contender], broker: int) -> None:
        course.create("backlog")
        there = 0
        for nth in range(self._size.rounds):
            for contender in entered:
                if contender.name in self.left_out:
                    continue
                n = int(min(MOST, max(contender.least, self._rates[contender.name] * self._size.seconds)))
                if n > there:
                    send(course.bootstrap, "backlog", self._traffic, n, there)
                    there = n
                with self._excused(contender):
                    speed = measure(course, contender, "backlog", n, broker)
                    self._runs.setdefault(contender.name, []).append(speed)
                    self._rates[contender.name] = speed.throughput
                    self._console.print(
                        f"round {nth + 1}  {contender.title}: {speed.throughput:,.0f}/s, "
                        f"{speed.cpu:,.0f} CPU s/million, {speed.scored:,} scores, others {speed.others:.1f} cores"
                    )

            if self._runs.get(TWO):
                flow = next(c for c in entered if c.name == VIGIE)
                self._beside.append(beside(course, flow, "backlog", int(self._rates[VIGIE] * self._size.seconds / 2)))
                self._console.print(f"round {nth + 1}  two flows apart: {self._beside[-1]:,.0f} CPU s/million")

    def _live(self, course: Course) -> Iterator[Latency]:
        by_name = {c.name: c for c in ALL}
        planned = [(VIGIE, accounts, self._size.shares) for accounts in self._size.accounts]
        planned += [(name, self._size.accounts[0], (0.5,)) for name in self._size.peers_live]
        for name, accounts, shares in planned:
            if not self._runs.get(name):
                continue
            with self._excused(by_name[name], "live: "), Live(course, by_name[name], accounts) as live:
                for share in shares:
                    found = live.measure(share * self.saturation(name), self._size.live, share)
                    shown = ", ".join("-" if p is None else f"{p:,.1f}" for p in found.percentiles)
                    self._console.print(
                        f"{by_name[name].title}, {accounts:,} accounts, {found.rate:,.0f}/s: {shown} ms of "
                        f"{found.samples:,}"
                    )
                    yield found

    @contextmanager
    def _excused(self, contender: Contender, where: str = "") -> Iterator[None]:
        """A peer that cannot run here is left out, by name; the others go on."""
        try:
            yield
        except ContenderFailure as failure:
            if contender.name in OURS:
                raise
            self.left_out[contender.name] = f"{where}{failure}"
            self._console.print(f"left out: {contender.title}: {where}{failure}", style="yellow")

    def _growth(self) -> list[Growth]:
        return [cost(days, events) for days in DAYS for events in EVENTS]

    def _holdings(self) -> list[Holding]:
        return [
            *(weight(entity, WEIGHED, TYPICAL) for entity in (Entity.ACCOUNT, Entity.MERCHANT)),
            weight(Entity.ACCOUNT, self._size.million, 1),
        ]


def run(arguments: argparse.Namespace, console: Console) -> Outcome:
    """Measures, prints, writes. Raises ``VigieError``."""
    if not Path("/proc/self/stat").exists():
        raise InvalidSetting("the speed benchmark counts CPU and memory from /proc; run it on Linux")
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = log_folder()
    bench = Bench(QUICK if arguments.quick else FULL, arguments.model, log, console)
    with (
        TemporaryDirectory(prefix="kafka-", dir=log) as data,
        TemporaryDirectory(prefix="bench-") as folder,
        LocalKafka(free_port(), Path(data), jvm=LONG_LIVED) as kafka,
    ):
        broker = kafka.running()
        assert broker is not None
        course = Course(kafka.bootstrap_servers, bench.model, Path(folder))
        outcome = bench.soaked(course, arguments.soak) if arguments.soak else bench.run(course, broker.pid)
    name = "soak" if arguments.soak else "speed"
    (arguments.out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcome)))
    (arguments.out / f"{name}.md").write_text(markdown(outcome), encoding="utf-8")
    page(outcome, arguments.out / f"{name}.html")
    show(outcome, console)
    console.print(f"Page        {arguments.out / f'{name}.html'}")
    return outcome


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(prog="python -m bench.speed", description="Vigie's speed beside its peers'.")
    add = command.add_argument
    add("--quick", action="store_true", help="about two minutes: one round, fewer contenders, live traffic at one rate")
    add("--soak", type=float, default=0, metavar="MINUTES", help="only this: the flow's memory under steady traffic")
    add("--model", type=Path, metavar="DIR", help="a bundle's folder (default: one is trained on a simulated history)")
    add("--out", type=Path, default=FOLDER, metavar="DIR", help="where the files go (default: %(default)s)")
    return command


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """By way of an exception, so that contenders and broker end, too."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 where something does not allow it."""
    parsed = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        run(parsed, Console(highlight=False, soft_wrap=True, width=WIDTH))
    except VigieError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
