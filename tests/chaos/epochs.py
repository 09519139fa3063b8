"""The recovery store seen from outside while the flow works with it, to strike at the moment that hurts most."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.chaos.cluster import Cluster

WAITS: Final = 30.0  # seconds


class Epochs:
    """What a recovery directory says of the epochs."""

    def __init__(self, parts: list[sqlite3.Connection]) -> None:
        self._parts = parts

    def done(self) -> int:
        """The epoch that the flow would resume from: of the last run, the least that a worker has reached."""
        runs = self._rows("SELECT ex_num, worker_count, resume_epoch FROM exs")
        if not runs:
            return 0
        last, workers, resumed = max(runs)
        reached = dict.fromkeys(range(workers), resumed)
        for run, worker, epoch in self._rows("SELECT ex_num, worker_index, worker_frontier FROM fronts"):
            if run == last:
                reached[worker] = max(reached[worker], epoch)
        return min(reached.values())

    def cut_short(self, step: str) -> bool:
        """Whether a state of that step is saved that belongs to an epoch that is not done."""
        query = f"SELECT 1, 1, 1 FROM snaps WHERE step_id LIKE '%.{step}' AND snap_epoch >= {self.done()} LIMIT 1"
        return bool(self._rows(query))

    def _rows(self, query: str) -> list[tuple[int, int, int]]:
        return [row for part in self._parts for row in part.execute(query).fetchall()]


@contextmanager
def of(directory: Path) -> Iterator[Epochs]:
    """The epochs of a store that exists already."""
    parts = [sqlite3.connect(f"file:{part}?mode=ro", uri=True) for part in sorted(directory.glob("part-*.sqlite3"))]
    try:
        yield Epochs(parts)
    finally:
        for part in parts:
            part.close()


def freeze_in_close(cluster: Cluster, epochs: Epochs, step: str) -> bool:
    """Stops all workers between saving a state of that step and declaring the epoch done; false where it never can."""
    give_up = time.monotonic() + WAITS
    while time.monotonic() < give_up and not cluster.ended():
        if epochs.cut_short(step):
            cluster.send(signal.SIGSTOP)
            time.sleep(0.05)  # until they have stopped indeed
            if epochs.cut_short(step):
                return True
            cluster.send(signal.SIGCONT)
        time.sleep(0.001)
    return False
