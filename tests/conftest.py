"""Fixtures for tests that need a broker: one real Apache Kafka a test run, and topics of a test's own.

A run shares its broker however many processes it has (pytest-xdist): the first test that needs it starts it, and the
process that the others belong to stops it.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from flows.kafka_install import available
from flows.local_kafka import LocalKafka, free_port
from tests.flows import settled

PLACE: Final = pytest.StashKey[Path]()
STARTED: Final = pytest.StashKey[LocalKafka]()  # kept to the end: its process outlives the fixture


def pytest_configure(config: pytest.Config) -> None:
    """The place of the run's broker; a worker is told it by the process that it belongs to."""
    told = getattr(config, "workerinput", None)
    config.stash[PLACE] = Path(told["kafka"] if told else tempfile.mkdtemp(prefix="vigie-tests-"))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_configure_node(node: pytest.Item) -> None:
    """Tells a new worker the place of the run's broker."""
    node.workerinput["kafka"] = str(node.config.stash[PLACE])  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the run's broker, where a test has started one."""
    if not hasattr(config, "workerinput"):
        LocalKafka(data_dir=config.stash[PLACE]).stop()
        shutil.rmtree(config.stash[PLACE])


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> LocalKafka:
    """A real broker that tests share, started for the first of them; who wants to stop one starts its own."""
    if reason := available():
        pytest.fail(f"this test needs a real Kafka, which cannot run here: {reason}")
    place = request.config.stash[PLACE]
    with (place / "starting").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if running := LocalKafka(data_dir=place).running():
            return LocalKafka(running.port, place)
        request.config.stash[STARTED] = broker = LocalKafka(free_port(), place)
        broker.start()
        return broker


@pytest.fixture
def topics(kafka: LocalKafka) -> Callable[[str, int], str]:
    """``topics(purpose, partitions)`` creates a topic that no other test uses and returns its name."""

    def create(purpose: str, partitions: int) -> str:
        name = f"{purpose}-{uuid.uuid4().hex[:12]}"
        settled.create(kafka.bootstrap_servers, name, partitions=partitions)
        return name

    return create
