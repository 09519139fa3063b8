"""The stages of a long command on stderr: bars where it is a terminal, one line a finished stage where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Stages:
    """Shows one stage after the other; to be used as a context."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Stages:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str, steps: int | None = None) -> Iterator[Callable[[], None]]:
        """A stage of so many steps, or of unknown length; gives what is to be called after each step."""
        started = time.monotonic()
        task = self._bars.add_task(name, total=steps)
        yield lambda: self._bars.advance(task)
        self._bars.update(task, total=steps or 1, completed=steps or 1)
        if not self.console.is_terminal:
            self.console.print(f"{name}: {time.monotonic() - started:.1f} s")
