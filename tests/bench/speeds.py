"""Made-up results of the speed benchmark."""

from __future__ import annotations

from typing import Any

from bench.contenders import ALL
from bench.speed_results import Contestant, Growth, Holding, Latency, Machine, Outcome, Soak, Speed

RATES = {
    "vigie-1": 6000.0,
    "vigie-2": 9000.0,
    "vigie-1-unsaved": 6400.0,
    "loop": 15_000.0,
    "bytewax-stock": 3000.0,
    "flink": 1000.0,
    "quix": 1500.0,
    "naive": 100.0,
}


def speed(rate: float, cpu: float = 100.0) -> Speed:
    return Speed(scored=1000, throughput=rate, cpu=cpu, broker_cpu=10.0, memory=200_000_000, others=0.25, load=1.0)


def latency(
    contender: str = "vigie-1", accounts: int = 100_000, share: float = 0.5, tail: float | None = 80.0
) -> Latency:
    return Latency(
        contender=contender,
        accounts=accounts,
        share=share,
        rate=3000.0,
        samples=36_000,
        percentiles=[5.0, 9.0, 30.0, tail, None],
        alerts=180,
        alert_percentiles=[5.5, 9.5, None, None, None],
        most=95.0,
        curve=[(1.0, 2.0), (10.0, 9.0), (36_000.0, 95.0)],
        cpu=150.0,
        memory=300_000_000,
        late=1.5,
        busy=1.25,
        load=1.0,
    )


def outcome(**changed: Any) -> Outcome:
    contestants = [
        Contestant(name=c.name, title=c.title, guarantee=c.guarantee, runs=[speed(RATES[c.name]) for _ in range(3)])
        for c in ALL
    ]
    values: dict[str, Any] = {
        "machine": Machine(
            cpu="A processor",
            cores=2,
            memory=8 * 2**30,
            kernel="Linux 6",
            log="in memory",
            date="2026-01-01",
            versions={"Bytewax": "0.21"},
        ),
        "traffic": "2,000 accounts",
        "model": "xgboost",
        "checked": 2000,
        "contestants": contestants,
        "left_out": {},
        "latencies": [latency(), latency(accounts=1000), latency("loop", 1000)],
        "growth": [Growth(days=d, events=n, microseconds=10.0 + d) for d in (1, 90) for n in (10, 1000)],
        "holdings": [Holding(entity="account", states=10, events=60, bytes_each=3854.0, process=64_000_000)],
        "beside": [100.0],
        "soak": Soak(rate=2000.0, seconds=[10.0, 20.0], memory=[100, 200], slope=1e6, error=2e6),
    }
    return Outcome(**(values | changed))
