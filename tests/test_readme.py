"""What the README says is so."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import numpy as np
import pytest
from confluent_kafka import Producer

from features import bundle
from features.bots import SCENARIOS
from features.definitions import FEATURES
from features.history import OPTIONAL, REQUIRED
from features.transaction import ERROR_CODES, Transaction
from flows import topics
from flows.local_kafka import LocalKafka
from flows.messages import Messages
from flows.model import Model
from flows.records import AlertMessage, Decisions, ScoredMessage, Transactions
from flows.settings import Settings
from tests.flows import bundles
from training.simulate import Simulation

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
JUSTFILE = (ROOT / "justfile").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def table(text: str) -> list[list[str]]:
    """The cells of the first table, without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def quoted(text: str) -> list[str]:
    """The words in backquotes."""
    return re.findall(r"`([^`]+)`", text)


# Commands


class Command(NamedTuple):
    """A command that the README tells the reader to type."""

    recipe: str
    words: list[str]


def commands() -> Iterator[Command]:
    """All ``just`` commands, of indented blocks and in running text."""
    blocks = re.findall(r"^ {4,}(\S.*)$", PROSE, re.MULTILINE)
    for line in blocks + re.findall(r"`(just [^`]*)`", PROSE):
        for command in re.split(r"&&|;", line):
            words = shlex.split(command, comments=True)
            if words[:1] == ["just"]:
                yield Command(words[1], words[2:])


def recipes() -> dict[str, str]:
    """The recipes and what they run."""
    found = re.findall(r"^([\w-]+)(?: \*words)?:.*\n((?: {4}.*\n|\n)*)", JUSTFILE, re.MULTILINE)
    return dict(found)


def module(recipe: str) -> list[str] | None:
    """The words after ``python -m`` of a recipe that hands its own words through; None of others."""
    found = re.search(r'\{\{ python \}\} -m ([^"]+?) "\$@"', recipes()[recipe])
    return shlex.split(found[1]) if found else None


def test_every_recipe_named_exists() -> None:
    named = {command.recipe for command in commands()}
    assert {"demo", "test", "train", "score", "replay", "parity", "kafka"} <= named
    assert named <= set(recipes())


def help_of(words: list[str]) -> str:
    command = [sys.executable, "-m", *words, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_options_named_exist() -> None:
    used: dict[str, set[str]] = {}
    for command in commands():
        options = {word.partition("=")[0] for word in command.words if word.startswith("-")}
        used.setdefault(command.recipe, set()).update(options)
    # Options that the text names by themselves, beside the command that they belong to.
    for recipe, title in (("replay", "The stream"), ("warm", "A warm start"), ("redrive", "Redrive")):
        used[recipe] |= set(re.findall(r"`(--[a-z-]+)", section(title)))
    used["train"] |= set(re.findall(r"`(--[a-z-]+)", section("A model of your own data")))
    assert {"--speed", "--rate", "--now", "--bots"} <= used["replay"]
    programs = {recipe: module(recipe) for recipe, options in used.items() if options}
    assert None not in programs.values(), "options are given to a recipe that takes none"
    # As many at a time as there are cores: each spends its time importing, and all at once would starve each other.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        helps = dict(zip(programs, threads.map(help_of, programs.values()), strict=True))
    for recipe, text in helps.items():
        known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text))
        assert used[recipe] <= known, recipe


def test_files_named_exist() -> None:
    named = [word for command in commands() for word in command.words if re.fullmatch(r"[a-z_]+/\S+", word)]
    named += [text for text in quoted(PROSE) if re.fullmatch(r"(features|flows|training|k8s|bench)/[\w./]+", text)]
    named += [name for name in quoted(section("How it works")) if name.endswith(".py")]
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "features" / name).exists(), name


# Settings, topics, codes


def settings_read() -> set[str]:
    """The variables that flows/settings.py names outside of its messages."""
    source = ast.parse((ROOT / "flows" / "settings.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch(r"VIGIE_[A-Z_]+[A-Z]", text)}


def test_the_settings_table_is_complete() -> None:
    rows = table(section("Settings"))
    named = [name for row in rows for name in quoted(row[0])]
    assert len(named) == len(set(named))
    elsewhere = {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_X_Y", "MLFLOW_TRACKING_URI", "BYTEWAX_..."}
    assert set(named) == settings_read() | elsewhere


def test_the_settings_have_the_defaults_that_the_table_gives() -> None:
    given: dict[str, str] = {}
    for row in table(section("Settings")):
        given |= dict(zip(quoted(row[0]), quoted(row[1]) or [""], strict=False))  # empty is unset
    given = {name: value for name, value in given.items() if name.startswith(("VIGIE_", "KAFKA_BOOT"))}
    assert set(given) == settings_read() | {"KAFKA_BOOTSTRAP_SERVERS"}
    assert Settings.from_environment(given) == Settings.from_environment({})


def test_variables_named_anywhere_are_in_the_table() -> None:
    in_table = {name for row in table(section("Settings")) for name in quoted(row[0])}
    assert {name for name in quoted(PROSE) if re.fullmatch(r"VIGIE_\w+", name)} <= in_table


def test_the_error_codes_are_all_there() -> None:
    found = re.search(r"^Error codes: (.*?)\.\n\n", README, re.MULTILINE | re.DOTALL)
    assert found
    assert quoted(found[1]) == list(ERROR_CODES)


def test_the_columns_of_a_history_are_all_there() -> None:
    rows = table(section("A model of your own data"))
    required = [name for row in rows if row[1] == "required" for name in quoted(row[0])]
    optional = [name for row in rows if row[1] == "optional" for name in quoted(row[0])]
    assert required == list(REQUIRED)
    assert optional == list(OPTIONAL)


def test_the_fields_of_messages_are_all_there() -> None:
    rows = {quoted(row[0])[0]: row for row in table(section("Topics"))}
    assert [rows[name][1] for name in ("transactions", "labels", "scored", "alerts")] == [
        *("account_id", "merchant_id"),
        *("account_id", "account_id"),
    ]
    assert set(rows) == {Settings.from_environment({}).topics[i] for i in range(5)}
    assert quoted(rows["transactions"][2]) == list(Transaction.__struct_fields__)
    assert quoted(rows["scored"][2]) == list(ScoredMessage.__struct_fields__)
    alert = set(AlertMessage.__struct_fields__) - set(ScoredMessage.__struct_fields__) | {"features"}
    assert alert <= set(quoted(rows["alerts"][2]))


def test_the_bots_are_named() -> None:
    assert set(SCENARIOS) <= set(quoted(PROSE))
    assert len(SCENARIOS) == len(Simulation().scenarios) == 4
    assert "four fraud bots" in README


def test_the_messages_explained_are_ones_that_are_given() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for package in ("features", "flows") for path in (ROOT / package).glob("*.py")
    )
    said = re.sub(r'"\s*f?"', "", sources)  # a message may run over several lines
    explained = [
        text for bold in re.findall(r"\*\*(.*?)\*\*", section("When something is wrong")) for text in quoted(bold)
    ]
    assert "no java on PATH" in explained
    for text in explained:
        assert text.removeprefix("vigie: ").strip(". ") in said, text


def test_python_and_line_lengths_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == ">=3.11,<3.13"
    assert "Python 3.11 or 3.12" in README


# The example


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 15
    return str(code)


@pytest.fixture
def alert(tmp_path: Path) -> tuple[str, bytes]:
    """Key and value of an alert, as the flow writes it."""
    loaded = bundle.load(bundles.make(tmp_path / "models"))
    model = Model(loaded)
    transaction = Transaction("t1", "compte-é7", "m1", 1_234_56, 1_522_540_800_000_000, None, None, None)
    rows = np.full((1, len(FEATURES)), np.nan, np.float32)
    rows[0, 0] = 1234.56
    decisions = Decisions(Transactions.of([transaction]), rows, [0.98765], [0.5], [True])
    (outgoing,) = Messages(model, scored_features=False).scored(decisions)
    assert outgoing.alert is not None
    return "compte-é7", outgoing.alert


def test_the_example_reads_alerts(kafka: LocalKafka, alert: tuple[str, bytes]) -> None:
    topics.partitions(Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}), ["alerts"])
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce("alerts", alert[1], alert[0])
    assert producer.flush(30) == 0
    producer.close()
    reading = subprocess.Popen(
        [sys.executable, "-W", "error", "-u", "-c", example()],
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    patience = Timer(60, reading.kill)
    patience.start()
    try:
        assert reading.stdout is not None
        line = reading.stdout.readline()
    finally:
        patience.cancel()
        reading.kill()
        reading.communicate()
    assert line.startswith("compte-é7 1234.56 score 0.988: amount 1,234.56")
