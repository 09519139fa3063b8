"""Logs: one line of JSON an event in a rotating file, the same in words on the console."""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROTATE_AT: Final = 10 * 1024 * 1024
KEPT: Final = 5
REPEAT_AFTER: Final = 30.0  # seconds
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one JSON object; what was given as ``extra`` becomes fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Words(logging.Formatter):
    """A record for people: time, level, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; an exception follows on lines of its own."""
        fields = "".join(f" {name}={value}" for name, value in _extra(record).items())
        text = f"{datetime.fromtimestamp(record.created):%H:%M:%S} {record.levelname:<7} {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Sparse(logging.Filter):
    """Lets a line of the Kafka client through once in half a minute: while a broker is away it repeats itself often."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is new; numbers in it do not count."""
        text = record.getMessage()
        if "[rdkafka#" not in text:
            return True
        key = re.sub(r"\d+", "#", text)
        if record.created - self._last.get(key, 0.0) < REPEAT_AFTER:
            return False
        self._last[key] = record.created
        return True


def set_up(level: str, directory: Path, process: str = "0") -> None:
    """Sends all logs to the console and to ``directory/vigie-<process>.log``: 10 MB a file, five old ones kept.

    Every process of a cluster needs a file of its own, since two that rotate one file lose lines.
    """
    directory.mkdir(parents=True, exist_ok=True)
    console = logging.StreamHandler()
    console.setFormatter(Words())
    file = logging.handlers.RotatingFileHandler(
        directory / f"vigie-{process}.log", maxBytes=ROTATE_AT, backupCount=KEPT, encoding="utf-8"
    )
    file.setFormatter(JsonLines())
    for handler in (console, file):
        handler.addFilter(Sparse())
    logging.basicConfig(level=level, handlers=[console, file], force=True)


def process_name(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What tells this process from its peers: the pod's name, or the process id that ``bytewax.run`` got, or 0."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--process-id", default=environment.get("BYTEWAX_PROCESS_ID"))
    return environment.get("BYTEWAX_POD_NAME") or parser.parse_known_args(arguments)[0].process_id or "0"


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
