"""Which sources a process runs: what was compiled from others, or is made of other classes, does not fit."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def digest(package: Path) -> str:
    """SHA-256 of the package's modules, their names and what they hold, in hexadecimal digits."""
    found = hashlib.sha256()
    for path in sorted(package.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
