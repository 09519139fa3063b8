"""The digest of a package's modules."""

from __future__ import annotations

from pathlib import Path

from features.sources import digest


def package(folder: Path, **modules: str) -> Path:
    folder.mkdir()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_it_is_of_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    one = package(tmp_path / "one", a="x = 1\n", b="y = 2\n")
    same = package(tmp_path / "same", b="y = 2\n", a="x = 1\n")
    (same / "notes.txt").write_text("no module")
    others = [
        package(tmp_path / "changed", a="x = 1\n", b="y = 3\n"),
        package(tmp_path / "renamed", a="x = 1\n", c="y = 2\n"),
        package(tmp_path / "fewer", a="x = 1\n"),
    ]
    assert digest(one) == digest(same)
    assert len({digest(one), *map(digest, others)}) == 4
