"""The short form of ``python -m tests.chaos``: each kind of blow once, with one, two and three workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.definitions import FEATURES, reach
from flows.local_kafka import LocalKafka, free_port
from tests.chaos.chaos import Act, Chaos, Report, Step
from tests.chaos.cluster import Cluster
from tests.chaos.sabotage import SCENARIOS


def wrong(report: Report) -> list[str]:
    return [f"{kind}: {text}" for kind, texts in report.findings.violations.items() for text in texts[:3]]


def test_whatever_happens_nothing_is_lost_and_nothing_twice(tmp_path: Path) -> None:
    steps = [
        Step(Act.KILL_ONE, 1.5),
        Step(Act.RESCALE, 1.0),  # to three workers
        Step(Act.KILL_ONE, 1.5),
        Step(Act.KILL_BROKER, 1.0),
        Step(Act.RESCALE, 1.0),  # to one
        Step(Act.KILL_IN_CLOSE, 1.0),
        Step(Act.KILL_ALL, 1.5, recovered=False),
    ]
    with LocalKafka(free_port(), tmp_path / "kafka") as broker:
        chaos = Chaos(Cluster(broker.bootstrap_servers, tmp_path), broker, seed=7, rate=100, days_a_second=1.3)
        try:
            report = chaos.run(steps, workers=2, days_before=60)
        finally:
            chaos.close()
    assert not wrong(report)
    assert not report.faults, report.faults[0]
    assert report.unasked == 0
    assert report.starts.keys() == {1, 2, 3}
    assert report.days > reach(FEATURES).days + 1  # so all windows have moved on, and labels have counted
    assert len(report.expected.accepted) > 2_000


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_flow_that_can_write_twice_is_found_out(kafka: LocalKafka, tmp_path: Path, scenario: str) -> None:
    # Whether a blow lands between a write and its commit hangs on how busy the machine is; three do.
    for attempt in range(3):
        (folder := tmp_path / str(attempt)).mkdir()
        chaos = Chaos(Cluster(kafka.bootstrap_servers, folder), None, seed=7 + attempt, rate=150, days_a_second=0.5)
        try:
            report = SCENARIOS[scenario](chaos, sabotaged=True)
        finally:
            chaos.close()
        if twice := report.findings.counts()["twice"]:
            break
    assert twice > 0
    assert report.findings.counts()["lost"] == 0
    assert not report.faults, report.faults[0]
