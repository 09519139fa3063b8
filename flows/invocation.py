"""How ``bytewax.run`` was called: what of its options and variables Vigie must know before the engine starts."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Invocation:
    """This process among those of the flow.

    ``recovery``: the recovery directory, None without recovery. ``index``: from 0 to below ``count``. ``name``: what
    tells this process from its peers in the logs.
    """

    recovery: Path | None
    index: int
    count: int
    name: str


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
    found = parser.parse_known_args(arguments)[0]
    pod, stateful_set = environment.get("BYTEWAX_POD_NAME"), environment.get("BYTEWAX_STATEFULSET_NAME")
    number = found.process_id
    if number is None and pod and stateful_set:
        number = pod.replace(f"{stateful_set}-", "")
    if number is None:
        number, addresses = "0", ["the only one"]
    elif found.addresses is not None:
        addresses = found.addresses.split(";")
    else:
        addresses = _host_file(environment)
    if not str(number).isdecimal() or int(number) >= len(addresses):
        raise InvalidSetting(
            f"the process id is {number!r}, and there are {len(addresses)} addresses ({'; '.join(addresses)}); "
            "give each process a number from 0 and its own place in the addresses"
        )
    directory = Path(found.recovery_directory) if found.recovery_directory else None
    return Invocation(directory, int(number), len(addresses), pod or str(number))


def _host_file(environment: Mapping[str, str]) -> list[str]:
    path = environment.get("BYTEWAX_HOSTFILE_PATH")
    if path is None:
        raise InvalidSetting("a process id needs the addresses of all processes: set BYTEWAX_ADDRESSES, or -a")
    return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
