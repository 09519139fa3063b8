"""What the images of ``k8s/Dockerfile`` hold, made of this machine's files without building them.

Directories of the repository that a stage copies are bound where it copies them, and no others; its environment,
working directory, user and command are taken over. The packages are those of this program's own environment, and the
compiled features are made by the Dockerfile's own words.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from string import Template
from typing import Final

from dockerfile_parse import DockerfileParser

from tests.flows.running import ROOT
from tests.k8s.container import PATH, Image
from tests.k8s.spec import Mount

DOCKERFILE: Final = ROOT / "k8s" / "Dockerfile"
COMPILED: Final = "/opt/numba"


@dataclass
class Stage:
    """A stage of a Dockerfile, with what it has from those that it is built on. ``copies``: source and target."""

    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    directory: str = "/"
    user: int = 0
    command: list[str] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)  # directories of packages, from another stage

    def then(self) -> Stage:
        """A stage that is built on this one."""
        return replace(
            self, environment=dict(self.environment), copies=[*self.copies], packages=[*self.packages], runs=[]
        )

    def take(self, instruction: str, value: str) -> None:
        """One more instruction. Those that change nothing of what is looked at here are passed over."""
        words = shlex.split(value)
        match instruction:
            case "ENV":
                for name, _, text in (word.partition("=") for word in words):
                    self.environment[name] = Template(text).safe_substitute(self.environment)
            case "WORKDIR":
                self.directory = words[0]
            case "USER":
                self.user = int(words[0].partition(":")[0])
            case "ENTRYPOINT":
                self.command = json.loads(value)
            case "RUN":
                self.runs.append(value)
            case "COPY" if not words[0].startswith("--from="):
                self.copies += [(source, str(PurePosixPath(self.directory, words[-1]))) for source in words[:-1]]
            case "COPY" if words[-1] != COMPILED:
                self.packages.append(words[-1])


def stages(dockerfile: str) -> dict[str, Stage]:
    """All stages, by name; ``runs`` are those of the stage itself."""
    found: dict[str, Stage] = {}
    stage = Stage()
    for entry in DockerfileParser(fileobj=BytesIO(dockerfile.encode())).structure:
        if entry["instruction"] == "FROM":
            words = entry["value"].split()
            stage = found[words[0]].then() if words[0] in found else Stage()
            found[words[-1]] = stage
        else:
            stage.take(entry["instruction"], entry["value"])
    return found


def image(stage: Stage, compiled: Path, *, fills: bool = False) -> Image:
    """The image of a stage. ``compiled``: where compiled features are kept; ``fills``: whether it writes there."""
    python = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]
    mounts = [Mount(str(folder), str(folder), read_only=True) for folder in python]
    mounts += [Mount(str(python[0]), target, read_only=True) for target in stage.packages]
    mounts += [Mount(str(ROOT / source.rstrip("/")), target, read_only=True) for source, target in stage.copies]
    mounts.append(Mount(str(compiled), COMPILED, read_only=not fills))
    passed = {str(parent) for folder in python for parent in folder.parents if parent != Path("/")}
    return Image(
        directory=stage.directory,
        environment=stage.environment,
        mounts=mounts,
        passed=sorted(passed),
        user=stage.user,
        command=stage.command,
    )


def of_target(name: str, found: Mapping[str, Stage]) -> Stage:
    """The stage that an image's name in the manifests means: registry.example.com/vigie-scorer:1 is ``scorer``."""
    return found[name.rpartition("/")[2].partition(":")[0].removeprefix("vigie-")]
