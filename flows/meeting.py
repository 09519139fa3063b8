"""How the processes of a flow meet before their engines start: the others come to process 0, which has the store.

Process 0 listens where its engine will, so nothing more has to be reachable. Each of the others says in one line of
JSON who it is and on which terms it works, and waits. When all are there, on the same terms, process 0 answers each
with what it needs of the store, and leaves the address to its engine. Like the traffic of the engines, which follows on
the same port, this is neither encrypted nor authenticated: keep strangers away from the port.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import msgspec

from features.errors import InvalidSetting, MeetingFailure
from flows.invocation import Invocation

RETRY: Final = 0.1  # seconds until a process that is not there yet is looked for again
CONNECTING: Final = 5.0  # seconds that one attempt to connect may take
SILENCE: Final = 5.0  # seconds in which who has come must have said who it is
LONGEST: Final = 1_000_000  # bytes of a line
CROWD: Final = 64  # that may be there without having said who they are

_log = logging.getLogger(__name__)


class Hello(msgspec.Struct, frozen=True):
    """Who comes. ``terms``: what must be the same in all processes, by names that an operator understands."""

    index: int
    terms: dict[str, str]


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """What the others need of the store; empty without recovery.

    ``begins``: the offsets from which on the output topics are the flow's. ``mark``: see ``flows.hold``.
    """

    begins: dict[str, list[int]] = {}
    mark: str = ""


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """Why a process cannot take part, and what to do about it."""

    reason: str


@dataclass(eq=False, slots=True)
class _Visitor:
    """A connection; ``index``: of the process that it has turned out to be."""

    socket: socket.socket
    origin: str
    since: float
    index: int | None = None
    heard: bytearray = field(default_factory=bytearray)


class Host:
    """Process 0's part; a flow of one process needs nobody, and meets at once.

    ``terms``: see ``Hello``. ``patience``: seconds to wait for the address, and then for the others. Raises
    ``MeetingFailure`` where this machine does not have the address, or something else listens there.
    """

    def __init__(self, place: Invocation, terms: Mapping[str, str], patience: float) -> None:
        self._count = place.count
        self._terms = terms
        self._patience = patience
        self._visitors: list[_Visitor] = []
        self._refused: dict[int, str] = {}
        self._listener = _listen(place.addresses[0], patience) if place.count > 1 else None
        self._selector = selectors.DefaultSelector()
        if self._listener is not None:
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        """Listens already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the address to the engine."""
        for visitor in list(self._visitors):
            self._dismiss(visitor)
        if self._listener is not None:
            self._listener.close()
        self._selector.close()

    def welcome(self, word: Welcome) -> None:
        """Returns when all others have come, on the same terms, and have been given the word.

        Whoever comes on other terms is refused, and is awaited again. Raises ``MeetingFailure`` where some do not come.
        """
        give_up = time.monotonic() + self._patience
        while absent := sorted(set(range(1, self._count)) - {visitor.index for visitor in self._visitors}):
            if time.monotonic() > give_up:
                refused = "".join(f"; process {index} was refused: {why}" for index, why in self._refused.items())
                raise MeetingFailure(
                    f"the processes {absent} of {self._count} have not come to process 0 within {self._patience:g} s "
                    f"(VIGIE_KAFKA_TIMEOUT): start them, or see what they say{refused}"
                )
            for key, _ in self._selector.select(RETRY):
                if key.data is None:
                    self._let_in()
                else:
                    self._hear(key.data)
            for visitor in [v for v in self._visitors if v.index is None and time.monotonic() > v.since + SILENCE]:
                self._dismiss(visitor)
        for visitor in [visitor for visitor in self._visitors if visitor.index is not None]:
            try:
                _say(visitor.socket, word)
            except OSError as error:
                raise MeetingFailure(
                    f"process {visitor.index} has left while it was answered ({error}); start all processes again"
                ) from error
        _log.info("all processes have met", extra={"processes": self._count})

    def _let_in(self) -> None:
        assert self._listener is not None
        try:
            connection, origin = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # gone again
        connection.setblocking(False)
        visitor = _Visitor(connection, str(origin[0]), time.monotonic())
        self._selector.register(connection, selectors.EVENT_READ, visitor)
        self._visitors.append(visitor)
        strangers = [visitor for visitor in self._visitors if visitor.index is None]
        for one_too_many in strangers[:-CROWD]:
            self._dismiss(one_too_many)

    def _hear(self, visitor: _Visitor) -> None:
        try:
            said = visitor.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        visitor.heard += said
        if visitor.index is not None or not visitor.heard.startswith(b"{") or len(visitor.heard) > LONGEST or not said:
            # It has died; or is none of us; or is the engine of one that was answered by a process 0 which then died.
            self._dismiss(visitor)
        elif b"\n" in said:
            try:
                hello = msgspec.json.decode(visitor.heard.partition(b"\n")[0], type=Hello)
            except (ValueError, RecursionError) as error:  # what is no JSON, no text, or no Hello
                _log.warning("%s is no process of this flow: %s", visitor.origin, error)
                self._dismiss(visitor)
            else:
                self._seat(visitor, hello)

    def _seat(self, visitor: _Visitor, hello: Hello) -> None:
        if reason := self._objection(hello):
            self._refused[hello.index] = reason
            self._refuse(visitor, hello.index, reason)
            return
        for earlier in [one for one in self._visitors if one.index == hello.index]:
            # Where its machine is gone, nobody else would ever say so.
            self._refuse(
                earlier,
                hello.index,
                f"another process {hello.index} has come after it, from {visitor.origin}; give each its own number",
            )
        visitor.index = hello.index
        self._refused.pop(hello.index, None)

    def _objection(self, hello: Hello) -> str | None:
        differences = [
            f"{name} is {hello.terms.get(name, 'not set')} there and {self._terms.get(name, 'not set')} in process 0"
            for name in {**self._terms, **hello.terms}
            if hello.terms.get(name) != self._terms.get(name)
        ]
        if differences:
            return (
                f"{'; '.join(differences)}: give all processes the same, and start them together (pods are rescaled "
                "with k8s/rescale)"
            )
        if not 0 < hello.index < self._count:
            return f"there is no process {hello.index} of {self._count}; number them from 0"
        return None

    def _refuse(self, visitor: _Visitor, index: int, reason: str) -> None:
        _log.warning("process %d, from %s, is refused: %s", index, visitor.origin, reason)
        try:
            _say(visitor.socket, Refusal(reason))
        except OSError as error:
            _log.warning("process %d has left before it was told: %s", index, error)
        self._dismiss(visitor)

    def _dismiss(self, visitor: _Visitor) -> None:
        self._visitors.remove(visitor)
        self._selector.unregister(visitor.socket)
        visitor.socket.close()


def attend(place: Invocation, terms: Mapping[str, str], patience: float) -> Welcome:
    """The part of the others: what process 0 says when all have come.

    ``patience``: seconds to wait for it. Raises ``MeetingFailure`` where process 0 refuses this process, or does not
    answer, or this machine does not have the address that this process is to work at.
    """
    give_up = time.monotonic() + patience
    _listen(place.addresses[place.index], patience).close()  # or the engine would die of it
    address = place.addresses[0]
    while True:
        try:
            answer = _ask(address, Hello(place.index, dict(terms)), max(RETRY, give_up - time.monotonic()))
        except OSError as error:
            if time.monotonic() > give_up:
                raise MeetingFailure(
                    f"process 0 of the flow has not answered at {address} within {patience:g} s "
                    f"(VIGIE_KAFKA_TIMEOUT): {error}; start it, or see what it says or which processes it waits for"
                ) from error
            time.sleep(RETRY)
        else:
            break
    if isinstance(answer, Refusal):
        raise MeetingFailure(f"process 0 of the flow refuses this process {place.index}: {answer.reason}")
    return answer


def _ask(address: str, hello: Hello, patience: float) -> Welcome | Refusal:
    with socket.create_connection(_parts(address), timeout=min(CONNECTING, patience)) as connection:
        connection.settimeout(patience)
        _say(connection, hello)
        with connection.makefile("rb") as incoming:
            line = incoming.readline(LONGEST)
    if not line.endswith(b"\n"):
        raise ConnectionError("it hung up")
    try:
        return msgspec.json.decode(line, type=Welcome | Refusal)
    except ValueError as error:
        raise MeetingFailure(
            f"what answers at {address} is no process of a flow ({error}); mend the addresses"
        ) from error


def _say(connection: socket.socket, what: Hello | Welcome | Refusal) -> None:
    connection.settimeout(CONNECTING)
    connection.sendall(msgspec.json.encode(what) + b"\n")


def _listen(address: str, patience: float) -> socket.socket:
    """Listens where the engine will; a name may not lead to this machine yet where it has just been given to it."""
    host, port = _parts(address)
    give_up = time.monotonic() + patience
    while True:
        try:
            return _listen_now(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise MeetingFailure(
                    f"something listens at {address} already ({error}); stop it, or choose other addresses"
                ) from error
            if time.monotonic() > give_up:
                raise MeetingFailure(
                    f"this process cannot listen at {address} ({error}), which the addresses name as its own; give it "
                    "an address of this machine"
                ) from error
            time.sleep(RETRY)


def _listen_now(host: str, port: int) -> socket.socket:
    failure = OSError(f"{host} has no address")
    for family, _, _, _, (name, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return socket.create_server((str(name), port), family=family)
        except OSError as error:
            failure = error
    raise failure


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise InvalidSetting(f"{address!r} is no address of a process; write host:port")
    return host.strip("[]"), int(port)
