"""What a program costs: CPU seconds and memory of a process with all that it has started, from /proc.

Linux only. Processes belong to a tree as children, or by the session that one of its processes has opened (``python
-m flows -p 2`` gives each of its processes a session, a JVM's children may lose their parent).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from features.errors import ContenderFailure

TICK: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
ENDS: Final = 20.0  # seconds that a killed process may take to go
SAID: Final = 15  # lines of what a program printed, shown where it fails


class Process(NamedTuple):
    """A line of /proc/*/stat; ``cpu`` in seconds, of its own and of the children that it has waited for."""

    pid: int
    parent: int
    session: int
    cpu: float
    memory: int


class Usage(NamedTuple):
    """What a tree has used so far (CPU seconds) and holds now (bytes; pages that are shared count for each)."""

    cpu: float
    memory: int


def parsed(line: str) -> Process:
    """The process of a line of /proc/*/stat; its name may hold spaces and brackets."""
    pid, _, rest = line.partition(" ")
    fields = rest.rpartition(")")[2].split()
    ticks = sum(int(ticks) for ticks in fields[11:15])
    return Process(int(pid), int(fields[1]), int(fields[3]), ticks / TICK, int(fields[21]) * PAGE)


def running() -> list[Process]:
    """All processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found.append(parsed(path.read_text(errors="replace")))
        except (FileNotFoundError, ProcessLookupError):  # it has ended since
            continue
    return found


def members(root: int, processes: Sequence[Process]) -> list[Process]:
    """The processes of the tree."""
    pids, sessions = {root}, {root}
    while True:
        inside = [p for p in processes if p.pid in pids or p.parent in pids or p.session in sessions]
        if len(inside) == len(pids & {p.pid for p in processes}):
            return inside
        pids |= {p.pid for p in inside}
        sessions |= {p.session for p in inside if p.session == p.pid}


def usage(root: int) -> Usage:
    """What the tree has used."""
    inside = members(root, running())
    return Usage(sum(p.cpu for p in inside), sum(p.memory for p in inside))


def busy() -> float:
    """CPU seconds that this machine has spent on anything so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, interrupts, soft, _ = map(int, fields)
    return (user + nice + system + interrupts + soft) / TICK


class Program:
    """A program in a session of its own; what it prints goes to a file in ``folder``."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._said = folder / "console"
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        self.peak = 0

    @property
    def pid(self) -> int:
        """Of the tree's root."""
        return self._process.pid

    def usage(self) -> Usage:
        """What it has used so far; keeps the largest memory seen."""
        found = usage(self.pid)
        self.peak = max(self.peak, found.memory)
        return found

    def check(self) -> None:
        """Raises ``ContenderFailure`` where it has ended."""
        if (code := self._process.poll()) is not None:
            raise ContenderFailure(f"{self.name} ended with exit code {code}. It said:\n{self.said()}")

    def wait(self, seconds: float) -> None:
        """Until it ends by itself; ``subprocess.TimeoutExpired`` where it does not in time."""
        self._process.wait(seconds)

    def said(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self._said.read_text(errors="replace").splitlines()[-SAID:])

    def kill(self) -> None:
        """Ends all of it, without ceremony: what it has done is already counted."""
        give_up = time.monotonic() + ENDS
        while (left := list(self._living())) and time.monotonic() < give_up:
            for process in left:
                try:
                    os.kill(process.pid, signal.SIGKILL)
                except ProcessLookupError:  # it has ended since
                    continue
            self._process.poll()
            time.sleep(0.02)
        self._process.wait(ENDS)

    def _living(self) -> Iterator[Process]:
        inside = members(self.pid, running())
        # A zombie that another one has to wait for has no memory left.
        return (p for p in inside if p.memory or (p.pid == self.pid and self._process.poll() is None))
