"""The machine and the versions of all that is measured on it."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.peers.environments import CONNECTOR, LOCKS
from bench.speed_results import Machine
from flows.kafka_install import KAFKA_VERSION

PACKAGES: Final = ("bytewax", "confluent-kafka", "msgspec", "numpy", "onnxruntime", "pandas", "xgboost-cpu")


def machine() -> Machine:
    """This machine, now."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=f"{platform.system()} {platform.release()}",
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        versions={
            "Apache Kafka": KAFKA_VERSION,
            "Python": platform.python_version(),
            "quixstreams": _pinned("quix", "quixstreams"),
            "apache-flink": _pinned("flink", "apache-flink"),
            "flink-sql-connector-kafka": CONNECTOR.rpartition(":")[2],
            **{name: version(name) for name in PACKAGES},
        },
    )


def _pinned(peer: str, package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (LOCKS / f"{peer}.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{peer}.lock does not pin {package}"
    return found[1]


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()
