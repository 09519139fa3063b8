"""The images' recipe keeps to the rules, and their locks hold what the flow needs and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from dockerfile_parse import DockerfileParser

from tests.k8s.rendered import ROOT, pods, program, rendered

FILE = ROOT / "k8s" / "Dockerfile"
LOCKS = [ROOT / "requirements.lock", ROOT / "k8s" / "scorer.lock", ROOT / "k8s" / "training.lock"]
TRAINING = {"mlflow", "onnxmltools", "plotly", "polars", "scikit-learn", "scipy", "threadpoolctl", "xgboost-cpu"}


class Stage(NamedTuple):
    """A stage: what it is made from, and its instructions."""

    base: str
    instructions: list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    name = ""
    for each in DockerfileParser(path=str(FILE)).structure:
        instruction, value = each["instruction"], each["value"]
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            found[name] = Stage(base, [])
        elif name and instruction != "COMMENT":
            found[name].instructions.append((instruction, value))
    return found


def pinned(lock: Path) -> dict[str, str]:
    """The packages of a lock and what stands behind their names, hashes among it."""
    entries = re.findall(r"^([a-z][\w.-]*)(?:\[.*\])?==(.*(?:\n    .*)*)", lock.read_text(), re.MULTILINE)
    return dict(entries)


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([program("hadolint"), str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_image_has_an_exact_version() -> None:
    (argument,) = [each["value"] for each in DockerfileParser(path=str(FILE)).structure if each["instruction"] == "ARG"]
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", argument)
    assert {stage.base for stage in stages().values()} - set(stages()) == {"${PYTHON}"}


@pytest.mark.parametrize("target", ["scorer", "training"])
def test_an_image_runs_as_the_manifests_user_without_tools(target: str) -> None:
    stage = stages()[target]
    last_user = [value for instruction, value in stage.instructions if instruction == "USER"][-1]
    users = {pod.spec["securityContext"]["runAsUser"] for pod in pods(rendered("production"))}
    assert {int(part) for part in last_user.split(":")} == users
    own = [
        value for instruction, value in [*stage.instructions, *stages()["base"].instructions] if instruction == "RUN"
    ]
    assert not [command for command in own if re.search(r"\b(pip|apt-get|curl|gcc)\b", command)]
    assert "PYTHONDONTWRITEBYTECODE=1" in str(stages()["base"])


def test_packages_are_installed_from_the_locks_with_hashes_and_built_nowhere() -> None:
    commands = [v for stage in stages().values() for i, v in stage.instructions if i == "RUN" and " pip " in v]
    assert len(commands) == 2
    for command in commands:
        assert {"--require-hashes", "--only-binary=:all:"} <= set(command.split())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_of_a_lock_has_hashes(lock: Path) -> None:
    packages = pinned(lock)
    assert len(packages) >= 15
    assert not [name for name, rest in packages.items() if "--hash=sha256:" not in rest]


def test_the_scorers_packages_are_the_projects_and_none_of_trainings() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything, scorer, training = map(pinned, LOCKS)
    assert {line.partition("==")[0] for line in project["dependencies"]} <= set(scorer)
    assert not set(scorer) & TRAINING
    assert {line.partition("==")[0] for line in project["optional-dependencies"]["training"]} <= set(training)
    # One version everywhere, so what is tested is what runs.
    for image in (scorer, training):
        assert {name: rest.split()[0] for name, rest in image.items()} == {
            name: everything[name].split()[0] for name in image
        }


IMPORTS = """
import importlib
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(f"the scorer's image has no {name}", name=name)

sys.meta_path.insert(0, Refuse())
for name in ("flows.__main__", "flows.score", "flows.provision", "flows.redrive"):
    importlib.import_module(name)
"""


def test_the_flow_runs_without_trainings_packages() -> None:
    refused = {"mlflow", "onnxmltools", "plotly", "polars", "sklearn", "scipy", "threadpoolctl", "xgboost", "pandas"}
    code = IMPORTS.replace("{refused}", repr(refused))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
