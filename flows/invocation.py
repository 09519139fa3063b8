"""How ``bytewax.run`` was called: what of its options and variables Vigie must know before the engine starts."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from features.errors import InvalidSetting

EPOCH: Final = 10.0  # seconds, as the engine has it where nothing is said
PORT: Final = 9999  # of the engine's own traffic, and of the meeting before it, in pods
_POD: Final = "BYTEWAX_POD_NAME"
_STATEFUL_SET: Final = "BYTEWAX_STATEFULSET_NAME"


@dataclass(frozen=True, slots=True)
class Invocation:
    """This process among those of the flow.

    ``recovery``: the recovery directory, None without recovery. ``index``: from 0 to below ``count``. ``name``: what
    tells this process from its peers in the logs. ``addresses``: of all processes, host:port; none where there is one.
    ``epoch``: how long an epoch lasts, in seconds.
    """

    recovery: Path | None
    index: int
    count: int
    name: str
    addresses: tuple[str, ...] = ()
    epoch: float = EPOCH


def of_process() -> Invocation:
    """The invocation of this process, from its command line and environment."""
    return read(sys.argv[1:], os.environ)


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Invocation:
    """The options, or else the variables, as ``bytewax.run`` takes them.

    Raises ``InvalidSetting`` for a process id that is none of the addresses'.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-r", "--recovery-directory", default=environment.get("BYTEWAX_RECOVERY_DIRECTORY"))
    parser.add_argument("-i", "--process-id", default=environment.get("BYTEWAX_PROCESS_ID"))
    parser.add_argument("-a", "--addresses", default=environment.get("BYTEWAX_ADDRESSES"))
    parser.add_argument("-s", "--snapshot-interval", default=environment.get("BYTEWAX_SNAPSHOT_INTERVAL"))
    found = parser.parse_known_args(arguments)[0]
    epoch = float(found.snapshot_interval or EPOCH)
    pod, stateful_set = environment.get(_POD), environment.get(_STATEFUL_SET)
    number = found.process_id
    if number is None and pod and stateful_set:
        number = pod.replace(f"{stateful_set}-", "")
    if number is None:
        return Invocation(_directory(found), 0, 1, pod or "0", epoch=epoch)
    addresses = _host_file(environment) if found.addresses is None else found.addresses.split(";")
    if not str(number).isdecimal() or int(number) >= len(addresses):
        raise InvalidSetting(
            f"the process id is {number!r}, and there are {len(addresses)} addresses ({'; '.join(addresses)}); "
            "give each process a number from 0 and its own place in the addresses"
        )
    return Invocation(_directory(found), int(number), len(addresses), pod or str(number), tuple(addresses), epoch)


def of_pod(pods: int, environment: Mapping[str, str]) -> list[str]:
    """The options of ``bytewax.run`` that give a pod of a StatefulSet its place; its Service has the set's name.

    Raises ``InvalidSetting`` where the pod is none of ``pods``, or the environment does not say which it is.
    """
    pod, stateful_set = environment.get(_POD, ""), environment.get(_STATEFUL_SET, "")
    number = pod.removeprefix(f"{stateful_set}-")
    if not stateful_set or number == pod or not number.isdecimal():
        raise InvalidSetting(
            f"VIGIE_PODS is {pods}, but {_POD} is {pod!r} and {_STATEFUL_SET} is {stateful_set!r}, which do not say "
            "which pod this is; set them to such as vigie-0 and vigie, or unset VIGIE_PODS (on one machine: -p)"
        )
    if int(number) >= pods:
        raise InvalidSetting(f"{pod} is pod {number} of {pods}: rescale with k8s/rescale {int(number) + 1}")
    if pods == 1:
        return ["-i", number, "-a", f"localhost:{PORT}"]  # nobody has to find it
    return ["-i", number, "-a", ";".join(f"{stateful_set}-{each}.{stateful_set}:{PORT}" for each in range(pods))]


def _directory(found: argparse.Namespace) -> Path | None:
    return Path(found.recovery_directory) if found.recovery_directory else None


def _host_file(environment: Mapping[str, str]) -> list[str]:
    path = environment.get("BYTEWAX_HOSTFILE_PATH")
    if path is None:
        raise InvalidSetting("a process id needs the addresses of all processes: set BYTEWAX_ADDRESSES, or -a")
    return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
