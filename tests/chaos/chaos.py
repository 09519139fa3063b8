"""What goes wrong, when, and what is measured of it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final, NamedTuple

from flows.local_kafka import LocalKafka
from tests.chaos import epochs, topic_log, verifier
from tests.chaos.cluster import PARTITIONS, Cluster
from tests.chaos.sender import Sender
from tests.chaos.stream import BEGIN, Stream
from tests.chaos.topic_log import Watch
from tests.flows.traffic import DAY

EARLY: Final = 5.0  # seconds that a label is sent before it counts
PEERS: Final = 10.0  # seconds in which the peers of a killed worker must have ended
STOPPING: Final = 30.0  # seconds in which a worker that is told to must have ended
RECOVERY: Final = 90.0  # seconds after which a flow that scores nothing hangs
SETTLED: Final = 3.0  # seconds without another record after which there will be none


class Act(StrEnum):
    """What may happen; after each one the flow is started again as an orchestrator would."""

    KILL_ONE = "kill -9 of one worker"
    KILL_ALL = "kill -9 of all workers"
    KILL_IN_CLOSE = "kill -9 of all while an epoch closes"
    KILL_BROKER = "kill -9 of the broker"
    KILL_BOTH = "kill -9 of the broker and all workers"
    STOP = "SIGTERM of all workers"
    RESCALE = "SIGTERM, another number of workers"


class Step(NamedTuple):
    """An act; ``wait``: seconds before it; ``recovered``: whether it also waits for the flow to score again."""

    act: Act
    wait: float
    recovered: bool = True


class Outage(NamedTuple):
    """When an act began, from when on what is scored was scored after it, and by how many workers."""

    act: Act
    begin: float
    silent: float
    workers: int


class Recovery(NamedTuple):
    """Seconds from an act to the first scored record after it."""

    act: Act
    workers: int
    seconds: float


@dataclass
class Report:
    """All that is to be told of a run."""

    acts: Counter[Act] = field(default_factory=Counter)
    starts: Counter[int] = field(default_factory=Counter)  # by number of workers
    unasked: int = 0  # workers that ended by themselves while none of their peers was killed
    waiting: int = 0  # starts that were struck, and had to be ended because a worker waited for its peers
    faults: list[str] = field(default_factory=list)  # what processes did that they must not do
    recoveries: list[Recovery] = field(default_factory=list)
    seconds: float = 0.0
    days: float = 0.0  # of event time
    expected: verifier.Expected = field(default_factory=verifier.Expected)
    findings: verifier.Findings = field(default_factory=verifier.Findings)

    def violations(self) -> int:
        """How many things are wrong."""
        return self.findings.total() + len(self.faults)


def at_random(rng: Random, seconds: float) -> Iterator[Step]:
    """Steps for so long; some strike again before the flow has recovered from the last one."""
    weights = {
        Act.KILL_ONE: 5,
        Act.KILL_ALL: 3,
        Act.KILL_IN_CLOSE: 3,
        Act.KILL_BROKER: 1,
        Act.KILL_BOTH: 1,
        Act.STOP: 1,
        Act.RESCALE: 4,
    }
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        act = rng.choices(list(weights), list(weights.values()))[0]
        recovered = rng.random() < 0.75
        yield Step(act, rng.uniform(0.2, 6.0), recovered)


class Chaos:
    """A flow, the producer it works for, and those who strike at it; without ``broker`` the broker must be spared."""

    def __init__(
        self, cluster: Cluster, broker: LocalKafka | None, *, seed: int, rate: float, days_a_second: float
    ) -> None:
        self.cluster = cluster
        self._broker = broker
        self._rng = Random(seed)
        stream = Stream(seed, PARTITIONS, days_a_second * DAY / rate, round(EARLY * days_a_second * DAY))
        self._sender = Sender(cluster.bootstrap, cluster.topics, stream, rate)
        self._watch = Watch(cluster.bootstrap, cluster.topics, ["scored", "rejected"])
        self._workers = 1
        self._outages: list[Outage] = []
        self._started = 0.0
        self.report = Report()

    def run(self, steps: Iterable[Step], workers: int = 1, days_before: float = 0.0) -> Report:
        """Takes the steps while records flow, then lets the flow finish, and verifies what it has done.

        ``days_before``: event time whose records lie in Kafka when the flow is started.
        """
        begin = time.monotonic()
        if days_before:
            self._sender.send_history(BEGIN + round(days_before * DAY))
        self._watch.start()
        self._sender.start()
        self._start(workers)
        for step in steps:
            if step.recovered:
                self._await_recovery()
            self._pass(step.wait)
            self._take(step.act)
        self._await_recovery()
        self._sender.finish()
        self._finish()
        self._watch.finish()
        self.report.seconds = time.monotonic() - begin
        for outage in self._outages:
            if (first := self._watch.first_after(outage.silent)) is not None:
                self.report.recoveries.append(Recovery(outage.act, outage.workers, first - outage.begin))
        return self.report

    def close(self) -> None:
        """Ends what is left, in the middle of a run too."""
        self._sender.stop()
        self._watch.stop()
        self.cluster.close()

    def _start(self, workers: int) -> None:
        self._workers = workers
        self.report.starts[workers] += 1
        self._started = time.time()
        self.cluster.start(workers)

    def _take(self, act: Act) -> None:
        self.report.acts[act] += 1
        self._restart_if_ended()
        moment = time.time()
        cluster, workers = self.cluster, self._workers
        match act:
            case Act.KILL_ONE:
                number = self._rng.randrange(workers)
                killed = cluster.processes.pop(number)
                killed.kill()
                killed.wait()
                statuses = cluster.wait(PEERS)
                self._expect(all(statuses), statuses, f"kill -9 of worker {number} of {workers}, its peers")
            case Act.KILL_ALL:
                cluster.wait(0)
            case Act.KILL_IN_CLOSE:
                with epochs.of(cluster.recovery) as seen:
                    epochs.freeze_in_close(cluster, seen, "account_windows_v1")
                moment = time.time()
                cluster.wait(0)
            case Act.KILL_BROKER:
                assert self._broker is not None
                self._broker.kill()
                self._broker.start()
            case Act.KILL_BOTH:
                assert self._broker is not None
                self._broker.kill()
                cluster.wait(0)
                self._start(workers)  # the workers are back before the broker is
                self._broker.start()
            case Act.STOP | Act.RESCALE:
                cluster.send(signal.SIGTERM)
                statuses = cluster.wait(STOPPING)
                self._expect(set(statuses) == {0}, statuses, f"SIGTERM of {workers} workers")
                if act is Act.RESCALE:
                    workers = workers % PARTITIONS + 1
        stopped = not cluster.processes
        self._outages.append(Outage(act, moment, time.time() if stopped else moment, workers))
        if stopped:
            self._start(workers)

    def _expect(self, right: bool, statuses: Sequence[int | None], what: str) -> None:
        """Workers that were at work must have ended so.

        Those that were still starting may do otherwise: a signal ends what has not come to handle it, and who waits
        for a peer that has died waits on, since Bytewax cannot tell it from one that is yet to come.
        """
        if right:
            return
        if self._watch.first_after(self._started) is None:
            self.report.waiting += None in statuses
        else:
            self._fault(f"{what}: they ended with {statuses}")

    def _fault(self, text: str) -> None:
        self.report.faults.append(f"{text}\n{self.cluster.console_text()}")

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._sender.check()
            self._restart_if_ended()
            time.sleep(0.05)

    def _restart_if_ended(self) -> None:
        if self.cluster.ended():
            statuses = self.cluster.wait(PEERS)
            self.report.unasked += 1
            print(f"the workers ended by themselves with {statuses}\n{self.cluster.console_text()}")
            self._start(self._workers)

    def _await_recovery(self) -> None:
        give_up, hung = time.monotonic() + RECOVERY, False
        since = max([self._started, *(outage.silent for outage in self._outages[-1:])])
        while self._watch.first_after(since) is None:
            self._pass(0.1)
            if time.monotonic() > give_up:
                self._fault(f"{self._workers} workers scored nothing for {RECOVERY:g} seconds")
                assert not hung, self.report.faults[-1]
                self.cluster.wait(0)
                self._start(self._workers)
                give_up, hung = time.monotonic() + RECOVERY, True

    def _finish(self) -> None:
        """Waits until all that was sent has come out, or nothing comes any more; stops the flow and verifies."""
        topics, bootstrap = self.cluster.topics, self.cluster.bootstrap
        names = ("transactions", "labels")
        inputs = {name: topic_log.read(bootstrap, topics[name]) for name in names}
        expected = verifier.judge(topics["transactions"], inputs["transactions"], topics["labels"], inputs["labels"])
        give_up = time.monotonic() + RECOVERY
        changed, last = time.monotonic(), -1
        while time.monotonic() < give_up and (last < expected.outputs or time.monotonic() - changed < SETTLED):
            self._pass(0.1)
            if (now := sum(self._watch.counts.values())) != last:
                give_up, changed, last = time.monotonic() + RECOVERY / 3, time.monotonic(), now
        self.cluster.send(signal.SIGTERM)
        statuses = self.cluster.wait(STOPPING)
        self._expect(set(statuses) == {0}, statuses, "SIGTERM at the end")
        outputs = [topic_log.read(bootstrap, topics[name]) for name in ("scored", "alerts", "rejected")]
        self.report.expected = expected
        self.report.findings = verifier.verify(expected, *outputs)
        instants = [transaction.timestamp for transaction in expected.accepted.values()]
        self.report.days = (max(instants, default=0) - min(instants, default=0)) / DAY
