"""The API server, spoken to as a kubelet does: JSON over HTTPS, and watches."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

Object = dict[str, Any]

TIMEOUT: Final = 30.0  # seconds of a request
WATCHING: Final = 60  # seconds after which a watch is begun anew
PATCH: Final = "application/strategic-merge-patch+json"


class Refused(Exception):
    """The API server's answer where it is not a success. ``status``: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """An API server at a port of this machine. ``authority``: the certificate that signed its own."""

    def __init__(self, port: int, token: str, authority: Path) -> None:
        self.port = port
        self.token = token
        self.authority = authority
        self._tls = ssl.create_default_context(cafile=str(authority))

    def get(self, path: str) -> Object:
        """An object, or a list."""
        return self._ask("GET", path)

    def create(self, path: str, item: Object) -> Object:
        """A new object."""
        return self._ask("POST", path, item)

    def patch(self, path: str, change: Object) -> Object:
        """A strategic merge: conditions and statuses of containers are merged by their names."""
        return self._ask("PATCH", path, change, PATCH)

    def delete(self, path: str, uid: str) -> None:
        """Removes a pod at once, where it is still that one."""
        self._ask("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    def watch(self, path: str, version: str) -> Iterator[tuple[str, Object]]:
        """What happens to the objects of a list after that version of it, for a minute: ADDED, MODIFIED, DELETED."""
        mark = "&" if "?" in path else "?"
        words = f"{path}{mark}watch=1&resourceVersion={version}&timeoutSeconds={WATCHING}"
        with closing(self._connection(WATCHING + TIMEOUT)) as connection:
            connection.request("GET", words, headers=self._headers())
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise Refused(answer.status, answer.read().decode(errors="replace"))
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(event["object"].get("code", 0), event["object"].get("message", ""))
                yield event["type"], event["object"]

    def _ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        with closing(self._connection(TIMEOUT)) as connection:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, self._headers() | {"Content-Type": kind})
            answer = connection.getresponse()
            said = answer.read()
        found: Object = json.loads(said) if said.startswith(b"{") else {"message": said.decode(errors="replace")}
        if answer.status >= 300:
            raise Refused(answer.status, found.get("message", ""))
        return found

    def _connection(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self._tls)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}


class Mirror(threading.Thread):
    """The objects of a list, kept up to date; ``changed`` is called with all of them, by uid, whenever one changes.

    An API server that is away is asked again; any other failure ends the thread, and is kept in ``failure``.
    """

    def __init__(self, api: Api, path: str, changed: Callable[[dict[str, Object]], None]) -> None:
        super().__init__(name=f"mirror {path}", daemon=True)
        self._api = api
        self._path = path
        self._changed = changed
        self._stopping = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """The thread."""
        try:
            while not self._stopping.is_set():
                try:
                    self._follow()
                except (OSError, http.client.HTTPException, Refused):
                    self._stopping.wait(0.2)
        except BaseException as error:
            self.failure = error
            raise

    def stop(self) -> None:
        """Follows no more, from the next change on."""
        self._stopping.set()

    def _follow(self) -> None:
        listed = self._api.get(self._path)
        objects = {item["metadata"]["uid"]: item for item in listed["items"]}
        self._changed(objects)
        for kind, item in self._api.watch(self._path, listed["metadata"]["resourceVersion"]):
            if self._stopping.is_set():
                return
            if kind == "DELETED":
                objects.pop(item["metadata"]["uid"], None)
            else:
                objects[item["metadata"]["uid"]] = item
            self._changed(objects)
