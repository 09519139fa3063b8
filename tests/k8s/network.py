"""The pods' network: a namespace and an address each, on one bridge, where the machine itself is reached too."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import threading
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final, NamedTuple, Self, TextIO

from tests.k8s.programs import Missing

BRIDGE: Final = "vigie-k8s"
LINK: Final = "vk8s"  # and the number of the pod
SUBNET: Final = IPv4Network("10.77.0.0/16")
LOCK: Final = Path("/run/vigie-k8s.lock")
MACHINE: Final = str(SUBNET[1])  # this machine's address, as pods see it


class Place(NamedTuple):
    """A pod's namespace, and its address."""

    namespace: str
    address: str


class Network:
    """As a context manager it is there for as long as the block; what an earlier run left behind is removed first."""

    def __init__(self) -> None:
        self._numbers = itertools.count(10)  # an address is not used twice, as on a big cluster
        self._lock = threading.Lock()
        self._held: TextIO

    def __enter__(self) -> Self:
        self._held = LOCK.open("w")  # the names are the machine's
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Missing("another run of this test is at work on this machine: wait for its end") from error
        self._clear()
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{MACHINE}/{SUBNET.prefixlen}", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._clear()
        self._held.close()

    def add(self) -> Place:
        """A new namespace with an address of its own, and a route to the machine."""
        with self._lock:
            number = next(self._numbers)
        place = Place(f"{BRIDGE}-{number}", str(SUBNET[number]))
        _ip("netns", "add", place.namespace)
        inside = ("-netns", place.namespace)
        _ip("link", "add", f"{LINK}{number}", "type", "veth", "peer", "name", "eth0", "netns", place.namespace)
        _ip("link", "set", f"{LINK}{number}", "master", BRIDGE, "up")
        _ip(*inside, "address", "add", f"{place.address}/{SUBNET.prefixlen}", "dev", "eth0")
        for name in ("lo", "eth0"):
            _ip(*inside, "link", "set", name, "up")
        _ip(*inside, "route", "add", "default", "via", MACHINE)
        return place

    def remove(self, place: Place) -> None:
        """What is left of a pod whose processes have ended; the kernel takes the rest with it."""
        _ip("netns", "delete", place.namespace)

    def _clear(self) -> None:
        for line in _ip("netns", "list").splitlines():
            name = line.partition(" ")[0]
            if name.startswith(f"{BRIDGE}-"):
                for pid in _ip("netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                _ip("netns", "delete", name)
        for line in _ip("-oneline", "link", "show").splitlines():
            name = line.split()[1].rstrip(":").partition("@")[0]
            if name == BRIDGE or name.startswith(LINK):
                with suppress(RuntimeError):  # its other end has taken it along since
                    _ip("link", "delete", name)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
