"""Logs as files and as words: what a line holds, and what is kept of how many."""

from __future__ import annotations

import json
import logging
import logging.handlers
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows import logs


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Puts the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_one_json_object_with_the_extra_fields(tmp_path: Path) -> None:
    logs.set_up("INFO", tmp_path / "new" / "folder")
    began = datetime.now(UTC)
    logging.getLogger("flows.x").warning("topic %s is\nfull", "é", extra={"topic": "é", "partition": ("t", 3), "n": 7})
    (line,) = lines(tmp_path / "new" / "folder" / "vigie-0.log")
    time = datetime.fromisoformat(str(line.pop("time")))
    assert abs(time - began) < timedelta(seconds=5)
    assert time.utcoffset() == timedelta(0)
    assert line == {
        "level": "WARNING",
        "logger": "flows.x",
        "message": "topic é is\nfull",
        "topic": "é",
        "partition": ["t", 3],
        "n": 7,
    }


def test_what_json_does_not_know_is_written_as_text(tmp_path: Path) -> None:
    logs.set_up("INFO", tmp_path)
    logging.getLogger("flows.x").info("x", extra={"span": timedelta(days=1), "path": Path("a/b"), "raw": b"\xff"})
    (line,) = lines(tmp_path / "vigie-0.log")
    assert (line["span"], line["path"], line["raw"]) == ("1 day, 0:00:00", "a/b", r"b'\xff'")


def test_an_exception_is_a_field_of_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("INFO", tmp_path)
    try:
        int("seven")
    except ValueError:
        logging.getLogger("flows.x").exception("it failed")
    (line,) = lines(tmp_path / "vigie-0.log")
    assert line["message"] == "it failed"
    expected = "ValueError: invalid literal for int() with base 10: 'seven'"
    exception = str(line["exception"])
    assert exception.startswith("Traceback (most recent call last):")
    assert exception.endswith(expected)
    assert expected in capsys.readouterr().err


def test_the_console_says_it_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("INFO", tmp_path)
    logging.getLogger("flows.x").info("so far", extra={"read": 12, "scored": 11})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    clock, level, rest = err.rstrip("\n").split(maxsplit=2)
    datetime.strptime(clock, "%H:%M:%S")  # a time of day
    assert (level, rest) == ("INFO", "so far read=12 scored=11")


@pytest.mark.parametrize(("level", "kept"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_the_level_decides_what_is_written(level: str, kept: int, tmp_path: Path) -> None:
    logs.set_up(level, tmp_path)
    logger = logging.getLogger("flows.x")
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(number, "x")
    assert len(lines(tmp_path / "vigie-0.log")) == kept


def test_files_rotate_at_10_mb_and_five_old_ones_are_kept(tmp_path: Path) -> None:
    logs.set_up("INFO", tmp_path)
    (file,) = [h for h in logging.getLogger().handlers if isinstance(h, logging.handlers.RotatingFileHandler)]
    assert (file.maxBytes, file.backupCount) == (10 * 1024 * 1024, 5)


def test_old_files_go_and_no_line_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "ROTATE_AT", 2_000)
    logs.set_up("INFO", tmp_path, "vigie-3")
    for number in range(500):
        logging.getLogger("flows.x").info("line", extra={"number": number})
    names = ["vigie-vigie-3.log", *(f"vigie-vigie-3.log.{age}" for age in range(1, 6))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(0 < (tmp_path / name).stat().st_size <= 2_000 for name in names)
    numbers = [line["number"] for name in reversed(names) for line in lines(tmp_path / name)]
    assert numbers == list(range(500))[-len(numbers) :]
    assert len(numbers) > 50


def test_set_up_again_replaces_what_was_set_up(tmp_path: Path) -> None:
    logs.set_up("INFO", tmp_path / "one")
    logs.set_up("INFO", tmp_path / "two")
    logging.getLogger("flows.x").info("x")
    assert lines(tmp_path / "one" / "vigie-0.log") == []
    assert len(lines(tmp_path / "two" / "vigie-0.log")) == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "name"),
    [
        ([], {}, "0"),
        ([], {"BYTEWAX_PROCESS_ID": "3"}, "3"),
        (["-i", "2", "-a", "a:1;b:2;c:3"], {}, "2"),
        (["--process-id=2"], {"BYTEWAX_PROCESS_ID": "3"}, "2"),
        ([], {"BYTEWAX_POD_NAME": "vigie-1", "BYTEWAX_PROCESS_ID": "3"}, "vigie-1"),
    ],
)
def test_each_process_has_a_name(arguments: list[str], environment: dict[str, str], name: str) -> None:
    assert logs.process_name(["flows.score", *arguments], environment) == name


def test_the_kafka_client_does_not_repeat_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.set_up("INFO", tmp_path)
    logger = logging.getLogger("flows.x")
    for age in range(100):
        logger.error("FAIL [rdkafka#consumer-5] 127.0.0.1:9092: Connect failed (after %dms in state CONNECT)", age)
        logger.error("FAIL [rdkafka#consumer-5] 127.0.0.1:9092: Disconnected (after %dms in state UP)", age)
        logger.info("an event of our own")
    monkeypatch.setattr(logs, "REPEAT_AFTER", -1.0)  # half a minute later
    logger.error("FAIL [rdkafka#consumer-5] 127.0.0.1:9092: Connect failed (after 7ms in state CONNECT)")
    written = [str(line["message"]) for line in lines(tmp_path / "vigie-0.log")]
    assert sum("Connect failed" in message for message in written) == 2
    assert sum("Disconnected" in message for message in written) == 1
    assert sum("our own" in message for message in written) == 100
    assert capsys.readouterr().err.count("\n") == 103
