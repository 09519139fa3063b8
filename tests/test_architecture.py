"""The rules of the house, read from the source: who imports whom, what a module may be called, how long it may be."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import features.errors
from features.errors import VigieError

ROOT = Path(__file__).parents[1]
PACKAGES = ("features", "flows", "training", "bench")
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))
LONGEST = 300

# Who may not be imported by whom; bench/ stands outside and measures them all.
FORBIDDEN = {
    "features": {"flows", "training", "bench", "tests"},
    "flows": {"training", "bench", "tests"},
    "training": {"flows", "bench", "tests"},
    "bench": {"tests"},
}
# A library and the places that may import it, as the beginnings of their paths.
CONFINED = {
    "bytewax": ("flows/", "bench/"),
    "polars": (
        *("features/batch.py", "features/windows.py", "features/history.py", "features/problems.py"),
        *("training/", "flows/replay.py", "flows/past.py", "bench/"),
    ),
    "numba": ("features/compiled.py",),
    "onnxruntime": ("features/inference.py",),
}
NAMELESS = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The dotted names of every module that the file imports, at the top or inside of functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports from the root"
            assert node.module
            # What is imported from a package may itself be a module.
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def test_there_is_something_to_check() -> None:
    assert {Path("features/definitions.py"), Path("features/batch.py"), Path("flows/score.py")} <= set(SOURCES)
    assert "polars" in tops(Path("features/batch.py"))
    assert "bytewax" in tops(Path("flows/score.py"))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_run_from_flows_and_training_to_features(path: Path) -> None:
    assert not tops(path) & FORBIDDEN[path.parts[0]]


@pytest.mark.parametrize("library", CONFINED)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    astray = [path for path in SOURCES if library in tops(path) and not path.as_posix().startswith(CONFINED[library])]
    assert not astray


def test_definitions_need_nothing_but_the_standard_library() -> None:
    reached, waiting = set[Path](), [Path("features/definitions.py")]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        ours = {Path(*name.split(".")).with_suffix(".py") for name in imported(path)} & set(SOURCES)
        assert tops(path) <= sys.stdlib_module_names | {"features"}, path
        waiting += ours
    assert reached <= {Path("features/definitions.py"), Path("features/errors.py")}


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=str)
def test_names_say_what_is_inside(path: Path) -> None:
    words = {word for part in path.with_suffix("").parts for word in part.lower().split("_")}
    assert not words & NAMELESS


def test_no_module_is_too_long_to_be_read_at_once() -> None:
    lengths = {path.as_posix(): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {path: length for path, length in lengths.items() if length > LONGEST}


def drawn() -> list[str]:
    """The names in the tree of the docstring of features/errors.py."""
    return re.findall(r"[├└]── (\w+)", features.errors.__doc__ or "")


def test_every_error_derives_from_the_root_and_is_drawn_in_its_tree() -> None:
    bases: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    family = {VigieError.__name__}
    while more := {name for name, of in bases.items() if of & family} - family:
        family |= more
    assert sorted(drawn()) == sorted(family - {VigieError.__name__})
    raised_by_python = {"Exception", "RuntimeError", "ValueError", "TypeError", "OSError", "KeyError", "LookupError"}
    assert {name for name, of in bases.items() if of & raised_by_python} <= {VigieError.__name__}
    assert all(issubclass(getattr(features.errors, name), VigieError) for name in drawn())
