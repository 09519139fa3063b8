"""The view of the alerts: what it counts, what it shows, and how long an alert took."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from features.errors import KafkaFailure
from flows.alerts import SHOWN, AlertWatch, Outcome
from flows.mock_kafka import MockKafka
from flows.records import AlertMessage, Reason, ScoredMessage
from flows.settings import Settings

REASONS = [
    Reason("account_amount_ratio_30d", 4.5714, 2.5, "amount 4.6 times this account's 30-day mean"),
    Reason("account_device_new_30d", None, 1.25, "this payment names [no] device"),
    Reason("account_amount_std_7d", 12.5, 0.5, "this account's deviation"),
    Reason("amount", 640.0, 0.25, "amount 640.00"),
]


# The summary


def outcome(
    *, sent: int = 10, scored: int = 10, alerts: int = 4, frauds: int = 6, found: int = 3, latencies: int = 4
) -> Outcome:
    of_kind = {"card_theft": (frauds, found)} if frauds else {}
    return Outcome(sent, scored, alerts, frauds, found, of_kind, [0.1 * (i + 1) for i in range(latencies)])


def shown(result: Outcome) -> dict[str, str]:
    """The summary as a reader sees it: what stands left, and what stands right."""
    console = Console(file=io.StringIO(), width=100)
    result.show(console)
    assert isinstance(console.file, io.StringIO)
    rows = [line.split("│")[1:3] for line in console.file.getvalue().splitlines() if line.startswith("│")]
    return {name.strip(): value.strip() for name, value in rows}


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_a_run_is_complete_only_with_everything_scored_and_some_fraud_found(sent: int, scored: int, found: int) -> None:
    assert outcome(sent=sent, scored=scored, found=found).complete() == (sent == scored and found > 0)


def test_the_summary_has_precision_recall_and_latency() -> None:
    rows = shown(outcome(sent=1234, scored=1200, alerts=4, frauds=6, found=3))
    assert rows["transactions sent / scored"] == "1,234 / 1,200"
    assert rows["alerts"] == "4"
    assert rows["precision: alerts that are frauds"] == "75.0%"
    assert rows["recall: frauds that were found"] == "50.0% of 6"
    assert rows["card_theft"] == "3 of 6"
    # Between the second and the third of 100 to 400 ms, and 3 % of the way from the fourth to the third.
    assert rows["latency, produce to alert"] == "p50 250 ms, p99 397 ms"


def test_the_summary_of_nothing_divides_by_nothing() -> None:
    rows = shown(outcome(sent=0, scored=0, alerts=0, frauds=0, found=0, latencies=0))
    assert rows["precision: alerts that are frauds"] == "no alert"
    assert rows["recall: frauds that were found"] == "no fraud"
    assert "latency, produce to alert" not in rows


# The watch


class Desk(NamedTuple):
    """A Kafka with its producer, as the flow would have one."""

    settings: Settings
    producer: Producer

    def score(self, *ids: str) -> None:
        """Sends ``scored`` messages."""
        for identity in ids:
            self.producer.produce("scored", msgspec.json.encode(ScoredMessage(**common(identity), alert=False)))
        assert self.producer.flush(10) == 0

    def alert(self, *ids: str, account: str = "a1", amount: float = 640.0, reasons: Sequence[Reason] = REASONS) -> None:
        """Sends ``alerts`` messages."""
        for identity in ids:
            fields = {**common(identity), "account_id": account, "amount": amount}
            message = AlertMessage(**fields, alert=True, features={}, threshold=0.5, reasons=list(reasons))
            self.producer.produce("alerts", msgspec.json.encode(message), partition=0)
        assert self.producer.flush(10) == 0


def common(identity: str) -> dict[str, Any]:
    return {
        "transaction_id": identity,
        "account_id": "a1",
        "merchant_id": "m1",
        "amount": 640.0,
        "timestamp": "2018-04-01T00:00:00Z",
        "score": 0.987,
        "anomaly_score": 0.5,
        "model": "test",
        "scored_at": "2018-04-01T00:00:00Z",
    }


@pytest.fixture
def desk() -> Iterator[Desk]:
    with MockKafka(("alerts", "scored")) as cluster:
        environment = {"KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers, "VIGIE_CREATE_TOPICS": "false"}
        producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "linger.ms": 0})
        yield Desk(Settings.from_environment(environment), producer)
        producer.close()


def lines() -> Console:
    """No terminal: a line for each alert."""
    return Console(file=io.StringIO(), width=60)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def read_until(step: Callable[[float], None], met: Callable[[], bool]) -> None:
    """Reads on until it is so, a busy machine's while; what follows says what is missing."""
    give_up = time.monotonic() + 20.0
    while not met() and time.monotonic() < give_up:
        step(0.1)


def test_what_comes_is_counted_and_held_against_the_truth(desk: Desk) -> None:
    desk.score("early")
    desk.alert("early")
    truth = {"t1": "card_theft", "t2": "card_theft", "t3": "amount_spike"}
    watch = AlertWatch(desk.settings, 5, truth, {"t1": time.time(), "t4": time.time()})
    desk.score("t1", "t2", "t3", "t4")
    desk.alert("t1", "t4")
    desk.alert("t1")  # a flow that starts again may repeat itself
    with watch.view(lines()) as step:
        read_until(step, lambda: watch.scored == 4)
        step(0.5)
    result = watch.outcome()
    assert (result.sent, result.scored, result.alerts) == (5, 4, 2)
    assert (result.frauds, result.found) == (3, 1)
    assert result.by_scenario == {"card_theft": (2, 1), "amount_spike": (1, 0)}
    assert len(result.latencies) == 2
    assert all(0 <= latency < 10 for latency in result.latencies)
    assert not result.complete()


def test_a_transaction_scored_twice_does_not_stand_for_one_that_is_missing(desk: Desk) -> None:
    watch = AlertWatch(desk.settings, 2, {"t1": "card_theft"}, {"t1": time.time()})
    desk.alert("t1")
    desk.score("t1", "t1")
    with watch.view(lines()) as step:
        read_until(step, lambda: watch.scored > 0)
        step(0.5)
    assert not watch.outcome().complete()


def test_an_alert_is_met_when_it_comes_and_not_when_the_look_is_over(desk: Desk) -> None:
    sent_at: dict[str, float] = {}
    watch = AlertWatch(desk.settings, 1, {}, sent_at)
    with watch.view(lines()) as step:
        step(0.5)  # connects
        sent_at["t1"] = time.time()
        desk.alert("t1")
        step(1.5)
    (latency,) = watch.outcome().latencies
    assert latency < 0.75


def test_an_alert_of_something_that_was_not_sent_has_no_latency(desk: Desk) -> None:
    watch = AlertWatch(desk.settings, 1, {}, {"t2": time.time()})
    console = lines()
    desk.alert("t1", "t2")
    with watch.view(console) as step:
        read_until(step, lambda: len(text(console).splitlines()) == 2)
    result = watch.outcome()
    assert result.alerts == 2
    assert len(result.latencies) == 1


def test_without_a_terminal_an_alert_is_one_line(desk: Desk) -> None:
    watch = AlertWatch(desk.settings, 2, {"t1": "card_theft"}, {})
    console = lines()
    desk.alert("t1", account="[red]A-17[/red]", amount=1640.5)
    desk.alert("t2", account="A-18", reasons=REASONS[1:])
    desk.alert("t3", account="A-19", reasons=[])
    with watch.view(console) as step:
        read_until(step, lambda: len(text(console).splitlines()) == 3)
    watch.outcome()
    first, second, third = sorted(text(console).splitlines(), key=lambda line: line.partition("A-")[2])
    for word in ("[red]A-17[/red]", "1,640.50", "0.987", "amount 4.6 times this account's 30-day mean", "card_theft"):
        assert word in first
    assert "deviation" not in first  # the strongest reason is enough for a line
    assert "this payment names [no] device" in second
    assert "honest" in second
    assert "A-19" in third


@pytest.mark.parametrize("height", [24, 40])
@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_the_newest_alert_in_full(desk: Desk, width: int, height: int) -> None:
    ids = [f"t{number}" for number in range(SHOWN + 5)]
    watch = AlertWatch(desk.settings, 40, dict.fromkeys(ids, "merchant_compromise"), dict.fromkeys(ids, time.time()))
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    reasons = [Reason("merchant_fraud_ratio_7d_delay_7d", 0.9231, 1.0, "92 % of this merchant's 13 payments were")]
    with watch.view(console) as step:
        for number, identity in enumerate(ids):
            desk.alert(identity, account=f"A{number:07}", amount=1640.5, reasons=reasons)
        read_until(step, lambda: f"{len(ids)} alerts" in text(console))  # it draws itself eight times a second
        while_it_runs = text(console)
    watch.outcome()
    assert f"{len(ids)} alerts" in while_it_runs
    newest = f"A{len(ids) - 1:07}"
    assert newest in while_it_runs
    row = while_it_runs.rpartition(newest)[2].partition("\n")[0]
    assert re.match(r" +│ +1,640\.50 +│ +0\.987 +│ +\d+ ms +│ merchant_co.*│ 92 % of this.*│", row), row
    assert "merchant_co" in row


def test_a_view_without_kafka_fails_at_the_start() -> None:
    settings = Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "VIGIE_KAFKA_TIMEOUT": "1s"})
    with pytest.raises(KafkaFailure, match=r"no Kafka at 127\.0\.0\.1:1"):
        AlertWatch(settings, 1, {}, {})
