"""The programs of a Kubernetes control plane, built once from their published sources; and what else is needed.

``controlplane/go.mod`` names them, and ``controlplane/go.sum`` holds the hash of every source. Go builds them in about
seven minutes on two cores; they are kept under ``.cache/k8s``, by the hash of both files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from flows.kafka_install import progress
from tests.flows.running import ROOT

SOURCES: Final = Path(__file__).resolve().parent / "controlplane"
CACHE: Final = ROOT / ".cache" / "k8s"
VERSION: Final = re.findall(r"k8s\.io/kubernetes (v\S+)", (SOURCES / "go.mod").read_text(encoding="utf-8"))[0]
_TOOLS: Final = {
    "go": "Go 1.24 or newer (https://go.dev/doc/install)",
    "ip": "iproute2 (apt install iproute2)",
    "openssl": "OpenSSL (apt install openssl)",
    "nsenter": "util-linux (apt install util-linux)",
    "setpriv": "util-linux (apt install util-linux)",
    "unshare": "util-linux (apt install util-linux)",
}


class Missing(Exception):
    """What this machine lacks, and where it comes from."""


def require() -> None:
    """Raises ``Missing`` where pods cannot run on this machine."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Missing("pods need network and mount namespaces: run this as root on Linux")
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise Missing(f"no {tool} on PATH: install {package}")
    probe = (
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/root && mount -t overlay overlay -o $1 /mnt/root"
    )
    options = "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work"
    words = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "sh", "-c", probe, "sh", options]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Missing(
            f"this machine allows no network and mount namespaces, or no overlay file system: {tried.stderr.strip()}; "
            "in a container, start it with --privileged"
        )


def kubectl() -> str:
    """The path of kubectl: that of the environment, or else the first on PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise Missing("no kubectl: just setup")
    return found


def control_plane() -> Path:
    """The folder with etcd (``server``), kube-apiserver, kube-controller-manager and kube-scheduler.

    Raises ``Missing`` where Go cannot build them.
    """
    digest = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()
    target = CACHE / f"programs-{digest[:8]}"
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _build(target)
    return target


def _build(target: Path) -> None:
    major, minor, _ = VERSION.removeprefix("v").split(".")
    stamp = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
    link = ["-s", "-w", *(f"-X=k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())]
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as scratch,
        progress(f"Building Kubernetes {VERSION} from source (about seven minutes on two cores, only once)"),
    ):
        built = Path(scratch, "bin")
        words = ["go", "build", "-mod=readonly", "-trimpath", f"-ldflags={' '.join(link)}", "-o", f"{built}/", "tool"]
        done = subprocess.run(
            words, cwd=SOURCES, env=os.environ | {"CGO_ENABLED": "0"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Missing(f"Go could not build Kubernetes {VERSION}:\n{done.stderr[-3000:]}")
        built.rename(target)
