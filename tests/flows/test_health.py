"""The three pages, and when a process counts as alive and ready."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from unittest.mock import patch

import pytest

from features.errors import InvalidSetting
from flows import health, pulse, stop
from flows.health import Server, tell
from flows.invocation import Invocation
from flows.local_kafka import free_port
from flows.pulse import WAITS, Pulse, Vitals
from flows.records import Beat
from flows.settings import Settings

ALONE = Invocation(None, 0, 1, "0", epoch=1.0)


class Clock:
    """Stands where the time module stands in the module."""

    def __init__(self) -> None:
        self.seconds = 50.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Iterator[Clock]:
    with patch.object(pulse, "time", Clock()) as clock:
        yield clock


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Server]]:
    """Those that are started are listed here, and are gone when the test ends."""
    started: list[Server] = []

    class Listed(Server):
        def __init__(self, port: int, vitals: Vitals) -> None:
            super().__init__(port, vitals)
            started.append(self)

    monkeypatch.setattr(health, "Server", Listed)
    yield started
    for server in started:
        server.shutdown()
        server.server_close()


def ask(port: int, page: str) -> tuple[int, str]:
    """The status and the text of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def settings(port: int | None, **others: str) -> Settings:
    return replace(
        Settings.from_environment({f"VIGIE_{name.upper()}": v for name, v in others.items()}), http_port=port
    )


def test_before_the_first_beat_it_is_alive_for_as_long_as_a_start_may_wait(clock: Clock) -> None:
    vitals = Vitals(stall=10, patience=3)
    assert vitals.epoch_age() is None
    assert vitals.unready() == "the engine is not at work yet"
    clock.seconds += 10 + WAITS * 3
    assert vitals.stalled() is None
    clock.seconds += 1
    assert vitals.stalled() == vitals.unready() == "the engine is not at work after 26 s"


def test_it_is_ready_when_an_epoch_has_closed_after_the_replay_and_alive_while_epochs_close(clock: Clock) -> None:
    vitals = Vitals(stall=10, patience=3)
    logic = Pulse(vitals)
    logic.on_batch([Beat("0-0", replayed=False)])
    assert vitals.unready() == "the journal is being replayed"
    for _ in range(3):
        clock.seconds += 9
        assert vitals.epoch_age() == 9
        logic.on_batch([Beat("0-0", replayed=True)])
        assert vitals.epoch_age() == 0
        assert vitals.unready() is vitals.stalled() is None
    clock.seconds += 10
    assert vitals.unready() is vitals.stalled() is None
    clock.seconds += 1
    assert vitals.stalled() == vitals.unready() == "no epoch has closed for 11 s (VIGIE_STALL_TIMEOUT)"
    logic.on_batch([Beat("0-0", replayed=True)])
    assert vitals.unready() is vitals.stalled() is None


def test_who_stops_is_alive_and_not_ready() -> None:
    vitals = Vitals(stall=10, patience=3)
    vitals.feel(Beat("0-0", replayed=True))
    assert vitals.unready() is None
    stop.requested.set()
    try:
        assert vitals.unready() == "the flow is stopping"
        assert vitals.stalled() is None
    finally:
        stop.requested.clear()


def test_the_pages_say_yes_or_why_not(servers: list[Server], clock: Clock) -> None:
    port, vitals = free_port(), Vitals(stall=10, patience=3)
    tell(settings(port), ALONE, vitals)
    assert len(servers) == 1
    assert ask(port, "/live") == (200, "yes\n")
    assert ask(port, "/ready") == (503, "the engine is not at work yet\n")
    assert "\nvigie_ready 0.0\n" in ask(port, "/metrics")[1]
    assert "\nvigie_epoch_age_seconds " not in ask(port, "/metrics")[1]
    vitals.feel(Beat("0-0", replayed=True))
    assert ask(port, "/ready?verbose") == (200, "yes\n")
    clock.seconds += 11
    assert ask(port, "/live") == (503, "no epoch has closed for 11 s (VIGIE_STALL_TIMEOUT)\n")
    status, page = ask(port, "/metrics")
    assert status == 200
    assert "\nvigie_ready 0.0\n" in page
    assert "\nvigie_epoch_age_seconds 11.0\n" in page
    assert ask(port, "/") == (404, "there are /metrics, /live and /ready\n")


def test_who_connects_and_says_nothing_keeps_nobody_waiting(servers: list[Server]) -> None:
    port = free_port()
    tell(settings(port), ALONE, Vitals(10, 3))
    assert servers
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        assert ask(port, "/live")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_without_a_port_nothing_listens(servers: list[Server]) -> None:
    tell(settings(None), ALONE, Vitals(10, 3))
    assert not servers


def test_each_process_of_a_machine_has_a_port_of_its_own_and_pods_have_the_same(servers: list[Server]) -> None:
    port = free_port()
    third = Invocation(None, 2, 3, "2", ("a:1", "b:1", "c:1"), epoch=1.0)
    tell(settings(port), third, Vitals(10, 3))
    tell(settings(port, pods="3"), third, Vitals(10, 3))
    assert [server.server_address[1] for server in servers] == [port + 2, port]


def test_a_port_that_cannot_be_had_is_named_with_the_way_out(servers: list[Server]) -> None:
    port = free_port()
    second = Invocation(None, 1, 2, "1", ("a:1", "b:1"), epoch=1.0)
    with socket.create_server(("", port)), pytest.raises(InvalidSetting) as raised:
        tell(settings(port - 1), second, Vitals(10, 3))
    assert f"VIGIE_HTTP_PORT is {port - 1}, but process 1 cannot listen at port {port} ([Errno " in str(raised.value)
    assert "in use); set a port that is free" in str(raised.value)
    with pytest.raises(InvalidSetting, match="VIGIE_HTTP_PORT is 65535, but process 1 cannot listen at port 65536"):
        tell(settings(65_535), second, Vitals(10, 3))
    assert not servers


def test_epochs_must_be_shorter_than_a_stall(servers: list[Server]) -> None:
    slow = Invocation(Path("r"), 0, 1, "0", epoch=360.0)
    with pytest.raises(InvalidSetting, match=r"VIGIE_STALL_TIMEOUT is 360 s, but an epoch lasts 360 s.*several times"):
        tell(settings(free_port()), slow, Vitals(360, 3))
    assert not servers
    tell(replace(settings(free_port()), stall_timeout=timedelta(minutes=20)), slow, Vitals(1200, 3))
    tell(settings(None), slow, Vitals(360, 3))
    assert len(servers) == 1
