"""The names that a cluster's DNS would give, in each pod's own /etc/hosts."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.k8s import spec
from tests.k8s.api import Object


class Hosts:
    """Writes the files anew whenever an EndpointSlice changes; in place, since they are bound into containers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slices: list[Object] = []
        self._files: dict[str, tuple[Path, str, str]] = {}  # by the pod's uid: file, namespace, first lines

    def add(self, uid: str, file: Path, pod: Object, address: str) -> None:
        """From now on that file is kept up to date for the pod."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        own = pod["spec"].get("hostname", name)
        if subdomain := pod["spec"].get("subdomain"):
            own = f"{own}.{subdomain}.{namespace}.svc.cluster.local {own}"
        with self._lock:
            self._files[uid] = (file, namespace, f"127.0.0.1 localhost\n{address} {own}\n")
            self._write(uid)

    def remove(self, uid: str) -> None:
        """The pod is gone."""
        with self._lock:
            del self._files[uid]

    def changed(self, slices: dict[str, Object]) -> None:
        """These are all EndpointSlices now."""
        with self._lock:
            self._slices = list(slices.values())
            for uid in self._files:
                self._write(uid)

    def _write(self, uid: str) -> None:
        file, namespace, own = self._files[uid]
        names = spec.hosts(self._slices, namespace)
        text = own + "".join(f"{address} {' '.join(of_address)}\n" for address, of_address in sorted(names.items()))
        if not file.exists() or file.read_text(encoding="ascii") != text:
            file.write_text(text, encoding="ascii")
