"""A container as a process of this machine: namespaces, a root of its own, an identity without rights.

Its image's root is this machine's file system under a layer that is thrown away, with the image's own directories bound
over it. It is process 1 of its namespace, as in any container, hence deaf to signals that it does not ask for.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from tests.k8s.lifecycle import exit_status
from tests.k8s.spec import Identity, Mount

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What an image would hold. ``passed``: directories of this machine that its processes must get through."""

    directory: str
    environment: Mapping[str, str]
    mounts: Sequence[Mount] = ()
    passed: Sequence[str] = ()
    user: int = 0
    command: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """All that a container is started with. ``scratch``: an empty directory that its root is mounted under."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    identity: Identity
    mounts: Sequence[Mount]
    image: Image
    namespace: str
    hostname: str
    scratch: Path


def script(plan: Plan) -> str:
    """What makes the container's root and then becomes its process; to be run in new mount, PID and UTS namespaces."""
    scratch = shlex.quote(str(plan.scratch))
    lines = [
        "set -eu",
        "mount --make-rprivate /",
        f"mount -t tmpfs -o mode=755 tmpfs {scratch}",
        f"cd {scratch}",
        "mkdir upper work root",
        "mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root",
        "cd root",
        "mount -t proc proc proc",
        "mount --rbind /dev dev",
        "mount --rbind /sys sys",
    ]
    lines += [f"chmod o+x {shlex.quote('.' + directory)}" for directory in plan.image.passed]
    for mount in [*plan.image.mounts, *plan.mounts]:
        source, target = shlex.quote(mount.source), shlex.quote("." + str(PurePosixPath(mount.target)))
        lines += [
            f"if [ -d {source} ]; then mkdir -p {target}; else mkdir -p $(dirname {target}); touch {target}; fi",
            f"mount --rbind {source} {target}",
        ]
        if mount.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
    if plan.identity.read_only_root:
        lines.append("mount -o remount,ro .")
    lines.append(f"hostname {shlex.quote(plan.hostname)}")
    command = shlex.join([*restricted(plan.identity), "env", "-C", plan.directory, *plan.command])
    lines += ["printf . >&0", f"exec chroot . {command} </dev/null"]
    return "\n".join(lines)


def restricted(identity: Identity) -> list[str]:
    """The words before a command that give it the identity."""
    groups = ",".join(map(str, identity.groups))
    words = ["setpriv", f"--reuid={identity.user}", f"--regid={identity.group}"]
    words.append(f"--groups={groups}" if groups else "--clear-groups")
    if not identity.may_gain_privileges:
        words.append("--no-new-privs")
    if identity.dropped:
        words += ["--bounding-set=-all", "--inh-caps=-all"]
    return words


class Container:
    """A running one: its own command has begun. ``log``: receives what it prints."""

    def __init__(self, plan: Plan, log: Path) -> None:
        self._plan = plan
        plan.scratch.mkdir(parents=True, exist_ok=True)
        words = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{plan.namespace}"]
        words += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]
        # Through its input the script tells that its work is done. Before that, a signal would not reach the command.
        reading, writing = os.pipe()
        with log.open("ab") as output, os.fdopen(reading, "rb") as begun:
            self._outer = subprocess.Popen(
                [*words, "sh", "-c", script(plan)],
                env={"PATH": PATH, **plan.environment},
                cwd="/",
                stdin=writing,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            os.close(writing)
            begun.read(1)

    @property
    def pid(self) -> int | None:
        """Its first process, as this machine counts; None in the first moments, and where it has ended."""
        with suppress(OSError):
            for child in Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split():
                return int(child)
        return None

    def poll(self) -> int | None:
        """Its exit status as Kubernetes reports it; None while it runs."""
        returned = self._outer.poll()
        return None if returned is None else exit_status(returned)

    def send(self, number: signal.Signals) -> None:
        """A signal for its first process."""
        pid = self.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        elif number == signal.SIGKILL:
            self._outer.kill()

    def execute(self, words: Sequence[str], timeout: float) -> bool:
        """Runs a command inside of it; whether it succeeds in time."""
        if self.pid is None:
            return False
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd"]
        command = [*inside, *restricted(self._plan.identity), *words]
        try:
            done = subprocess.run(
                command,
                env={"PATH": PATH, **self._plan.environment},
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
