"""The machine and the versions of all that is measured on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.peers.environments import CONNECTOR, LOCKS
from bench.speed_results import Machine
from flows.kafka_install import KAFKA_VERSION

PACKAGES: Final = ("bytewax", "confluent-kafka", "msgspec", "numpy", "onnxruntime", "pandas", "xgboost-cpu")
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # not for a file of a known name
LOG: Final = 8 * 2**30  # bytes that a run may write


def log_folder() -> Path:
    """Where the broker's log may lie: in memory where there is enough, or where temporary files are.

    In a bank the broker has disks of its own. On a disk that it shares with the flow, the flow's epochs wait for theirs
    behind all that the broker writes, and that is what would be measured.
    """
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free >= LOG and _available() >= 2 * LOG:
        return SHARED_MEMORY
    return Path(tempfile.gettempdir())


def machine(log: Path) -> Machine:
    """This machine, now; ``log``: where the broker's log lies."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=f"{platform.system()} {platform.release()}",
        log="in memory" if log == SHARED_MEMORY else "on a disk that all share",
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


def _available() -> int:
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()
