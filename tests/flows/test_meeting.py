"""Processes that meet, as threads on real sockets; and what else may come to the door."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from features.errors import InvalidSetting, MeetingFailure
from flows import meeting
from flows.invocation import Invocation
from flows.local_kafka import HOST, free_port
from flows.meeting import Host, Welcome, attend

TERMS = {"the model": "m-1", "VIGIE_ALLOWED_LATENESS": "1 day, 0:00:00"}
WORD = Welcome({"scored": [3, 5]}, "mark")


def places(count: int) -> list[Invocation]:
    addresses = tuple(f"{HOST}:{free_port()}" for _ in range(count))
    return [Invocation(None, index, count, str(index), addresses) for index in range(count)]


def port(place: Invocation) -> int:
    return int(place.addresses[0].rpartition(":")[2])


@contextmanager
def hosted(place: Invocation, patience: float = 20.0) -> Iterator[Future[None]]:
    """Process 0 in a thread of its own."""
    with ThreadPoolExecutor() as pool, Host(place, TERMS, patience) as host:
        yield pool.submit(host.welcome, WORD)


def call(place: Invocation, said: bytes) -> socket.socket:
    """A connection to process 0 on which this has been said."""
    connection = socket.create_connection((HOST, port(place)), timeout=10)
    connection.sendall(said)
    return connection


def hello(index: int) -> bytes:
    return json.dumps({"index": index, "terms": TERMS}).encode() + b"\n"


def heard(connection: socket.socket) -> bytes:
    """All that process 0 says before it hangs up."""
    found = b""
    try:
        while more := connection.recv(10_000):
            found += more
    except ConnectionResetError:  # it has not read all that it was sent
        pass
    return found


def test_all_get_the_word_when_the_last_has_come_and_the_engine_can_have_the_address() -> None:
    zero, one, two = places(3)
    with ThreadPoolExecutor() as pool:
        early = pool.submit(attend, two, TERMS, 20.0)  # before anybody listens
        time.sleep(0.3)
        with hosted(zero) as done:
            time.sleep(0.3)
            assert not early.done()
            assert not done.done()
            assert attend(one, TERMS, 20.0) == WORD
            assert early.result(10) == WORD
            done.result(10)
        # The engine listens with the same option, as others' connections may linger.
        socket.create_server((HOST, port(zero))).close()


def test_one_process_meets_nobody() -> None:
    with Host(Invocation(None, 0, 1, "0"), TERMS, 0.1) as host:
        host.welcome(WORD)


def test_what_differs_is_named_to_both_and_the_right_one_is_still_welcome() -> None:
    zero, one = places(2)
    with hosted(zero) as done:
        with pytest.raises(
            MeetingFailure, match=r"refuses this process 1: the model is m-2 there and m-1 in process 0: give all"
        ):
            attend(one, {**TERMS, "the model": "m-2"}, 20.0)
        with pytest.raises(MeetingFailure, match=r"ALLOWED_LATENESS is not set there and 1 day.*and rules is on there"):
            attend(one, {"the model": "m-1", "and rules": "on"}, 20.0)
        assert not done.done()
        assert attend(one, TERMS, 20.0) == WORD
        done.result(10)


def test_process_0_says_whom_it_waits_for_and_whom_it_has_refused() -> None:
    zero, one, _ = places(3)
    with hosted(zero, 1.0) as done:
        with pytest.raises(MeetingFailure, match="m-2"):
            attend(one, {**TERMS, "the model": "m-2"}, 20.0)
        with pytest.raises(
            MeetingFailure,
            match=r"\[1, 2\] of 3 have not come .* 1 s \(VIGIE_KAFKA_TIMEOUT\).*; process 1 was refused: the model is",
        ):
            done.result(10)


def test_a_number_that_is_none_of_the_flow_is_refused() -> None:
    zero, one = places(2)
    with hosted(zero):
        for index in (-1, 0, 2):
            with call(zero, hello(index)) as connection:
                assert b"there is no process %d of 2" % index in heard(connection)
        attend(one, TERMS, 20.0)


def test_of_two_with_one_number_the_first_is_told() -> None:
    zero, one, two = places(3)
    with hosted(zero) as done, ThreadPoolExecutor() as pool:
        with call(zero, hello(1)) as first:
            second = pool.submit(attend, one, TERMS, 20.0)
            assert b"another process 1 has come after it, from 127.0.0.1" in heard(first)
        assert attend(two, TERMS, 20.0) == second.result(10) == WORD
        done.result(10)


def test_who_has_died_in_the_meantime_is_awaited_again() -> None:
    zero, one, two = places(3)
    with hosted(zero) as done, ThreadPoolExecutor() as pool:
        call(zero, hello(1)).close()
        other = pool.submit(attend, two, TERMS, 20.0)
        time.sleep(0.5)
        assert not done.done()
        assert not other.done()
        assert attend(one, TERMS, 20.0) == other.result(10) == WORD
        done.result(10)


def test_process_0_may_die_and_come_again_while_others_wait() -> None:
    zero, one = places(2)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(attend, one, TERMS, 20.0)
        with socket.create_server((HOST, port(zero))) as listener:
            listener.accept()[0].close()
        with hosted(zero) as done:
            assert waiting.result(10) == WORD
            done.result(10)


@pytest.mark.parametrize(
    "bytes_of_a_stranger",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\n",
        b"\0\xff\xfe\n",
        b'{"index": "\xff\xfe", "terms": {}}\n',
        b'{"index": 1}\n',
        b'{"index": 1, "terms": []}\n',
        b'{"index": 1e999, "terms": {}}\n',
        b"[" * 100_000 + b"\n",
        b'{"x": ' + b"[" * 100_000 + b"\n",
        b"x" * (meeting.LONGEST + 100_000),  # and never an end of the line
        hello(1)[:-1],  # silent in the middle
        bytes.fromhex("c2f1fb770118add9") + bytes(8),  # an engine that looks for another one
    ],
    ids=lambda said: repr(said[:20]),
)
def test_a_stranger_neither_stops_nor_delays_the_meeting(bytes_of_a_stranger: bytes) -> None:
    zero, one = places(2)
    with hosted(zero) as done, socket.create_connection((HOST, port(zero)), timeout=10) as stranger:
        sender = threading.Thread(target=_send, args=(stranger, bytes_of_a_stranger))
        sender.start()
        time.sleep(0.2)
        assert not done.done()
        began = time.monotonic()
        assert attend(one, TERMS, 20.0) == WORD
        done.result(10)
        assert time.monotonic() - began < 2
        sender.join()


def _send(connection: socket.socket, said: bytes) -> None:
    try:
        connection.sendall(said)
    except (BrokenPipeError, ConnectionResetError):
        return  # it was not listened to, as it should be


def test_a_crowd_of_silent_strangers_does_not_keep_the_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "CROWD", 4)
    zero, one = places(2)
    with hosted(zero) as done:
        strangers = [call(zero, b"") for _ in range(10)]
        time.sleep(0.3)
        assert heard(strangers[0]) == b""  # hung up on
        assert attend(one, TERMS, 20.0) == WORD
        done.result(10)
        for stranger in strangers:
            stranger.close()


def test_who_says_nothing_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SILENCE", 0.3)
    zero, one = places(2)
    with hosted(zero), call(zero, b'{"index"') as stranger:
        assert heard(stranger) == b""
        attend(one, TERMS, 20.0)


def test_what_cannot_be_a_hello_is_hung_up_on_at_once() -> None:
    """An engine that has found a meeting in place of an engine would wait for ever."""
    zero, one = places(2)
    with hosted(zero), call(zero, bytes(16)) as engine:
        began = time.monotonic()
        assert heard(engine) == b""
        assert time.monotonic() - began < meeting.SILENCE / 2
        attend(one, TERMS, 20.0)


def test_process_0_that_does_not_come_is_missed_in_time() -> None:
    _, one = places(2)
    began = time.monotonic()
    with pytest.raises(MeetingFailure, match=r"has not answered at 127.0.0.1:\d+ within 0.5 s .*refused.*start it"):
        attend(one, TERMS, 0.5)
    assert time.monotonic() - began < 5


def test_something_else_that_answers_is_named() -> None:
    zero, one = places(2)
    with socket.create_server((HOST, port(zero))) as listener, ThreadPoolExecutor() as pool:
        waiting = pool.submit(attend, one, TERMS, 20.0)
        with listener.accept()[0] as connection:
            connection.sendall(b"SSH-2.0-x\n")
            with pytest.raises(MeetingFailure, match=r"is no process of a flow .*mend the addresses"):
                waiting.result(10)


@pytest.mark.parametrize("index", [0, 1])
def test_an_address_in_use_is_refused_at_once(index: int) -> None:
    place = places(2)[index]
    address = HOST, int(place.addresses[index].rpartition(":")[2])
    said = r"something listens at 127.0.0.1:\d+ already"
    with socket.create_server(address), pytest.raises(MeetingFailure, match=said):
        _meet(place)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("host", ["192.0.2.1", "vigie-0.invalid"])
def test_an_address_that_is_not_here_is_waited_for_but_not_for_ever(host: str, index: int) -> None:
    addresses = (f"{host}:{free_port()}",) * 2
    with pytest.raises(MeetingFailure, match=f"cannot listen at {host}.*an address of this machine"):
        _meet(Invocation(None, index, 2, str(index), addresses))


@pytest.mark.parametrize("address", ["vigie-0", "vigie-0:", ":9999", "vigie-0:99999", "vigie-0:x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidSetting, match=r"is no address of a process; write host:port"):
        _meet(Invocation(None, 0, 2, "0", (address, "b:1")))


def _meet(place: Invocation) -> None:
    if place.index:
        attend(place, TERMS, 0.3)
    else:
        Host(place, TERMS, 0.3)
