"""The manifests as kustomize gives them, and what the tests want to know of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())
Resource = dict[str, Any]


def program(name: str) -> str:
    """A program that the developers' packages bring, or else the machine has."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    assert found, f"no {name}: run `just setup`"
    return found


@cache
def rendered(overlay: str) -> tuple[Resource, ...]:
    """All resources of an overlay."""
    return of_kustomization(ROOT / "k8s" / "overlays" / overlay)


def of_kustomization(folder: Path) -> tuple[Resource, ...]:
    """All resources of a kustomization; fails with what kustomize says."""
    command = [program("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def only(resources: tuple[Resource, ...], kind: str, name: str) -> Resource:
    """The one resource of this kind and name."""
    (found,) = [each for each in resources if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


class Pod(NamedTuple):
    """A pod's template. ``title``: whose."""

    title: str
    template: Resource

    @property
    def spec(self) -> Resource:
        return dict(self.template["spec"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"]["labels"])

    @property
    def containers(self) -> list[Resource]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(resources: tuple[Resource, ...]) -> Iterator[Pod]:
    """The templates of all pods."""
    for each in resources:
        spec = each.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template is not None:
            yield Pod(f"{each['kind']}/{each['metadata']['name']}", template)
