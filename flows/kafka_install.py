"""Apache Kafka's jars, from Maven Central, and the Java to run them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from features.errors import KafkaFailure

CONFIG_DIR: Final = Path(__file__).resolve().parent / "kafka"
_POM: Final = (CONFIG_DIR / "pom.xml").read_text(encoding="utf-8")
KAFKA_VERSION: Final = re.findall(r"<kafka\.version>(.+?)</kafka\.version>", _POM)[0]
_MINIMUM_JAVA: Final = 17


def available() -> str | None:
    """Why no local Kafka can run here, with what to install; None if it can."""
    try:
        java()
        if not _install_dir().is_dir():
            _maven()
    except KafkaFailure as reason:
        return str(reason)
    return None


def install() -> Path:
    """The folder with the broker's jars, downloaded from Maven Central (45 MB) when it is not there yet.

    It lies under ``$XDG_CACHE_HOME/vigie`` (default ``~/.cache/vigie``) and is complete or absent, however
    many processes ask at once. Raises ``KafkaFailure`` when Maven is missing or fails.
    """
    target = _install_dir()
    if target.is_dir():
        return target
    maven = _maven()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        with (
            tempfile.TemporaryDirectory(dir=target.parent, prefix="download-") as scratch,
            progress(f"Downloading Apache Kafka {KAFKA_VERSION} from Maven Central (45 MB, only once)"),
        ):
            pom, libs = Path(scratch, "pom.xml"), Path(scratch, "libs")
            pom.write_text(_POM, encoding="utf-8")
            goal = ("dependency:copy-dependencies", f"-DoutputDirectory={libs}", "-DincludeScope=runtime")
            command = (maven, "--batch-mode", "--quiet", "--file", str(pom), *goal)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not libs.is_dir():
                output = "\n".join((done.stdout + done.stderr).splitlines()[:10])
                raise KafkaFailure(
                    f"Maven could not download Apache Kafka {KAFKA_VERSION} (exit code {done.returncode}); "
                    f"check the network, or the mirror in ~/.m2/settings.xml. It said:\n{output}"
                )
            libs.rename(target)
    return target


def _install_dir() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "vigie" / f"kafka-{KAFKA_VERSION}-{hashlib.sha256(_POM.encode()).hexdigest()[:8]}"


def java() -> str:
    """The Java to run Kafka with. Raises ``KafkaFailure`` where there is none, or one that is too old."""
    remedy = f"install Java {_MINIMUM_JAVA} or newer (apt install default-jre-headless; brew install openjdk)"
    found = shutil.which("java")
    if found is None:
        raise KafkaFailure(f"no java on PATH, and Apache Kafka needs it: {remedy}")
    said = subprocess.run((found, "-version"), capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None:
        raise KafkaFailure(f"{found} does not tell its version ({said.strip()!r}): {remedy}")
    if int(version[1]) < _MINIMUM_JAVA:
        raise KafkaFailure(f"{found} is Java {version[1]}, too old for Apache Kafka {KAFKA_VERSION}: {remedy}")
    return found


def _maven() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaFailure(
            "no mvn on PATH, and Apache Kafka is downloaded with it: install Maven "
            "(apt install maven; brew install maven)"
        )
    return maven


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Shows that something goes on: a spinner on a terminal, elsewhere a line."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        print(text, file=sys.stderr, flush=True)
        yield
