"""The environments of the peers that do not belong among Vigie's own packages, made on first use under .cache/peers.

Each is a locked file of requirements beside this module. PyFlink also needs Flink's Kafka connector, which comes from
Maven Central, and a Java.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from features.errors import ContenderFailure
from flows.kafka_install import java, progress

FOLDER: Final = Path(".cache/peers")
LOCKS: Final = Path(__file__).parent
CONNECTOR: Final = "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2"
COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy"
SAID: Final = 10  # lines of what a tool printed


def python_of(peer: str) -> Path:
    """The Python of a peer's environment, made when it is not there yet. Raises ``ContenderFailure``."""
    lock = LOCKS / f"{peer}.lock"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    folder = (FOLDER / peer).resolve()
    python, made_from = folder / "bin" / "python", folder / "made-from"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{peer}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if made_from.exists() and made_from.read_text() == wanted:
            return python
        with progress(f"Making the environment of {peer} in {folder} (only once)"):
            uv = _uv()
            _run(peer, [*uv, "venv", "--quiet", "--clear", "--python", "3.11", str(folder)])
            sync = [*uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(folder), str(lock)]
            _run(peer, sync)
        made_from.write_text(wanted)
    return python


def flink_connector() -> Path:
    """Flink's Kafka connector with all that it needs, from Maven Central. Raises ``ContenderFailure``."""
    _, name, version = CONNECTOR.split(":")
    jar = (FOLDER / f"{name}-{version}.jar").resolve()
    if jar.exists():
        return jar
    maven = shutil.which("mvn")
    if maven is None:
        raise ContenderFailure("no mvn on PATH, and Flink's Kafka connector is downloaded with it: install Maven")
    java()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        progress(f"Downloading {CONNECTOR} from Maven Central (only once)"),
        tempfile.TemporaryDirectory(dir=FOLDER) as folder,
    ):
        options = [f"-Dartifact={CONNECTOR}", f"-DoutputDirectory={Path(folder).resolve()}"]
        # Elsewhere than here, so that no project of this folder has a say.
        _run("flink", [maven, "--batch-mode", "--quiet", COPY, *options], Path(folder))
        (Path(folder) / jar.name).rename(jar)
    return jar


def _uv() -> list[str]:
    """uv, as ``just setup`` finds or fetches it."""
    for found in (shutil.which("uv"), ".cache/uv/bin/uv"):
        if found is not None and Path(found).exists():
            return [str(Path(found).resolve())]
    place = Path(".cache/uv").resolve()
    version = Path("justfile").read_text(encoding="utf-8").split('uv_version := "')[1].split('"')[0]
    _run("uv", ["python3", "-m", "pip", "install", "--quiet", "--target", str(place), f"uv=={version}"])
    return [str(place / "bin" / "uv")]


def _run(peer: str, command: Sequence[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ContenderFailure(f"{peer}: {command[0]} does not start ({error.strerror})") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-SAID:])
        raise ContenderFailure(f"{peer}: `{' '.join(command)}` ended with exit code {done.returncode}:\n{said}")


def environment(python: Path) -> dict[str, str]:
    """The variables under which a peer finds its own Python first, and Vigie's packages."""
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(Path.cwd()), "VIRTUAL_ENV": str(python.parent.parent)}


def here() -> Path:
    """The Python of Vigie itself."""
    return Path(sys.executable)
