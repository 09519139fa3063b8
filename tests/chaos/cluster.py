"""One to several workers as an orchestrator runs them: a process and a volume each; the first has the store."""

from __future__ import annotations

import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flows.local_kafka import HOST, free_port
from tests.flows import bundles, settled
from tests.flows.running import PURPOSES, launch

PARTITIONS: Final = 3


class Cluster:
    """The flow's topics, model, logs and recovery directories, and the processes that work with them.

    ``recovery``: that of the first process; those of the others stay empty.
    """

    def __init__(self, bootstrap: str, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        mark = uuid.uuid4().hex[:8]
        self.bootstrap = bootstrap
        self.folder = folder
        self.topics = {purpose: f"{purpose}-{mark}" for purpose in PURPOSES}
        self.recovery = folder / "recovery"
        self.changes = ""  # see launch
        self.processes: list[subprocess.Popen[bytes]] = []
        self.consoles: list[Path] = []
        self._starts = 0
        self._environment = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "VIGIE_MODEL": str(bundles.make(folder / "models")),
            "VIGIE_LOG_DIRECTORY": str(folder / "logs"),
            "VIGIE_SCORED_FEATURES": "true",
            "VIGIE_KAFKA_TIMEOUT": "60s",
            **{f"VIGIE_{purpose.upper()}_TOPIC": topic for purpose, topic in self.topics.items()},
            **(settings or {}),
        }
        settled.create(bootstrap, *self.topics.values(), partitions=PARTITIONS)

    def start(self, workers: int) -> None:
        """Starts so many processes; what each one prints goes to a file of its own."""
        assert not self.processes
        self._starts += 1
        addresses = ";".join(f"{HOST}:{free_port()}" for _ in range(workers))
        self.consoles = [self.folder / f"console-{self._starts:03d}-{number}" for number in range(workers)]
        for number, file in enumerate(self.consoles):
            volume = self.recovery if number == 0 else self.folder / f"recovery-{number}"
            recovery = ["-r", str(volume), "-s", "1", "-b", "0"]
            options = ["-i", str(number), "-a", addresses, *recovery]
            with file.open("ab") as console:
                self.processes.append(launch(self._environment, console.fileno(), self.changes, options=options))

    def ended(self) -> bool:
        """Whether a process has ended."""
        return any(process.poll() is not None for process in self.processes)

    def send(self, number: signal.Signals) -> None:
        """A signal for every process."""
        for process in self.processes:
            process.send_signal(number)

    def wait(self, timeout: float) -> list[int | None]:
        """Waits for all processes to end, and kills those that do not; their exit statuses, None for a killed one."""
        give_up = time.monotonic() + timeout
        while any(process.poll() is None for process in self.processes) and time.monotonic() < give_up:
            time.sleep(0.01)
        statuses = [process.poll() for process in self.processes]
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.wait()
        self.processes = []
        return statuses

    def console_text(self) -> str:
        """The end of what each process of the last start has printed."""
        texts = (file.read_text(errors="replace")[-3000:] for file in self.consoles)
        return "\n".join(f"--- {file.name}\n{text}" for file, text in zip(self.consoles, texts, strict=True))

    def close(self) -> None:
        """Leaves nothing behind but files."""
        self.wait(0)
