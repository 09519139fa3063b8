"""What the speed benchmark found, as its file has it, and what it comes to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """A contender, once: scored transactions, and what they cost.

    ``cpu``, ``broker_cpu``: CPU seconds a million. ``memory``: bytes at most, pages that processes share counted for
    each. ``others``: cores that were busy with something else. ``load``: the machine's.
    """

    scored: int
    throughput: float
    cpu: float
    broker_cpu: float
    memory: int
    others: float
    load: float


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A contender under live traffic; ``percentiles`` in milliseconds, of ``bench.latency.PERCENTILES``.

    ``share``: of the contender's saturation. ``curve``: one in so many is slower, and by how many milliseconds.
    ``alerts``, ``alert_percentiles``: the same for alerts, where the contender writes any.
    ``late``: milliseconds by which the injector itself was late, its 99th percentile. ``busy``: cores that were busy
    with anything, injector, reader and broker among it.
    """

    contender: str
    accounts: int
    share: float
    rate: float
    samples: int
    percentiles: list[float | None]
    alerts: int
    alert_percentiles: list[float | None]
    most: float
    curve: list[tuple[float, float]]
    cpu: float
    memory: int
    late: float
    busy: float
    load: float


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Features alone, without Kafka: CPU microseconds a transaction where the longest windows and states are so."""

    days: int
    events: int
    microseconds: float


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of states: so many of an entity, each with so many events."""

    entity: str
    states: int
    events: int
    bytes_each: float
    process: int


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the flow under steady traffic: seconds and bytes; the slope in bytes an hour, 95 % within ``error``."""

    rate: float
    seconds: list[float]
    memory: list[int]
    slope: float
    error: float


class Contestant(msgspec.Struct, frozen=True, kw_only=True):
    """A contender with its runs, one a round."""

    name: str
    title: str
    guarantee: str
    runs: list[Speed]

    def median(self, what: str) -> float:
        """Of one of the figures of ``Speed``."""
        return float(statistics.median(getattr(run, what) for run in self.runs))


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured, and with what; ``log``: where the broker's log was, in words."""

    cpu: str
    cores: int
    memory: int
    kernel: str
    log: str
    date: str
    versions: dict[str, str]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found. ``left_out``: why a contender is not there. ``traffic``: in words.

    ``beside``: of each round the CPU microseconds a score of the flow while another one is beside it.
    """

    machine: Machine
    traffic: str
    model: str
    checked: int
    contestants: list[Contestant]
    left_out: dict[str, str]
    latencies: list[Latency]
    growth: list[Growth]
    holdings: list[Holding]
    soak: Soak | None = None
    beside: list[float] = []

    def contestant(self, name: str) -> Contestant | None:
        """The contender of this name, where it was measured."""
        return next((c for c in self.contestants if c.name == name), None)


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What was to be reached: ``found`` against ``wanted``; None where it was not measured."""

    text: str
    wanted: float
    found: float | None
    at_most: bool = False
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        """Whether it is reached."""
        if self.found is None:
            return None
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted


def ratio(outcome: Outcome, over: str, under: str, what: str) -> float | None:
    """The median over the rounds of what one contender has to what the other one has in the same round."""
    first, second = outcome.contestant(over), outcome.contestant(under)
    if first is None or second is None:
        return None
    pairs = zip(first.runs, second.runs, strict=False)
    return float(statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs))


def goals(outcome: Outcome) -> list[Goal]:
    """Each goal of the project, and what was found."""
    faster: Sequence[tuple[str, str, float]] = (
        ("naive", "the naive way", 30),
        ("quix", "Quix Streams", 5),
        ("flink", "PyFlink", 2),
        ("bytewax-stock", "Bytewax with stock connectors", 2.5),
    )
    found = [
        Goal(
            text=f"throughput over that of {title}", wanted=wanted, found=ratio(outcome, "vigie-1", name, "throughput")
        )
        for name, title, wanted in faster
    ]
    # Of CPU seconds an event the reciprocal is events a CPU second.
    found.append(
        Goal(
            text="of the hand-written loop, per CPU second, with recovery and exactly once",
            wanted=0.7,
            found=ratio(outcome, "loop", "vigie-1", "cpu"),
        )
    )
    two = outcome.contestant("vigie-2")
    doubled = [2 * alone / run.cpu for alone, run in zip(outcome.beside, two.runs if two else [], strict=False)]
    found.append(
        Goal(
            text="two processes over one, where each has a core of its own (CPU a score over that of flows apart)",
            wanted=1.7,
            found=statistics.median(doubled) if doubled else None,
        )
    )
    kept = ratio(outcome, "vigie-1", "vigie-1-unsaved", "throughput")
    found.append(
        Goal(
            text="throughput that recovery costs",
            wanted=15,
            found=None if kept is None else 100 * (1 - kept),
            at_most=True,
            unit="%",
        )
    )
    found.append(
        Goal(
            text="p99.9 at half of saturation, 100,000 accounts, recovery on",
            wanted=100,
            found=_tail(outcome),
            at_most=True,
            unit="ms",
        )
    )
    return found


def _tail(outcome: Outcome) -> float | None:
    for latency in outcome.latencies:
        if latency.contender == "vigie-1" and latency.accounts == 100_000 and latency.share == 0.5:
            return latency.percentiles[3]
    return None
