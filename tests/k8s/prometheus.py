"""A real Prometheus, since only it says what its queries mean: the one on PATH, or Debian's, unpacked into .cache."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from flows.local_kafka import HOST, free_port

CACHE: Final = Path(__file__).parents[2] / ".cache" / "prometheus"
EVERY: Final = "250ms"  # it asks for metrics, and looks at rules, so often


def program(name: str) -> str:
    """Where ``prometheus`` or ``promtool`` is; it is fetched where it is missing and this is a Debian."""
    if found := shutil.which(name):
        return found
    there = CACHE / "usr" / "bin" / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not there.exists():
            assert shutil.which("apt-get"), f"there is no {name} on PATH; install Prometheus (brew install prometheus)"
            subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=CACHE, check=True, timeout=300)
            (package,) = CACHE.glob("prometheus_*.deb")
            subprocess.run(["dpkg", "-x", package, CACHE], check=True, timeout=60)
            package.unlink()
    return str(there)


class Prometheus:
    """One that runs, and answers."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{HOST}:{port}"

    def ask(self, path: str, **words: str) -> Any:
        """The data of an answer of its HTTP API; an error in the query is an error here, with what it says."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series that an expression has now, with their values."""
        data = self.ask("query", query=expression)
        assert data["resultType"] == "vector", expression
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]


@contextmanager
def watching(targets: Sequence[str], rules: Path, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that asks these addresses for /metrics and keeps to these rules, until the block ends."""
    config = folder / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
                "rule_files": [str(rules)],
                "scrape_configs": [{"job_name": "vigie", "static_configs": [{"targets": list(targets)}]}],
            }
        )
    )
    port = free_port()
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    said = folder / "prometheus.log"
    with (
        said.open("wb") as log,
        subprocess.Popen([*command, f"--web.listen-address={HOST}:{port}"], stdout=log, stderr=log) as process,
    ):
        try:
            _await_ready(process, port, said)
            yield Prometheus(port)
        finally:
            process.terminate()


def _await_ready(process: subprocess.Popen[bytes], port: int, said: Path) -> None:
    give_up = time.monotonic() + 30
    while True:
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < give_up, said.read_text()
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
