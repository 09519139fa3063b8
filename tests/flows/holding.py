"""Locks on recovery directories, which only the end of a process gives back."""

from __future__ import annotations

from flows import hold


def release() -> None:
    """As the end of the process does."""
    for lock in hold._held:
        lock.close()
    hold._held.clear()
