"""Rejected records sent again: which ones, where to, and each of them once whatever dies when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console

from features.errors import KafkaFailure
from features.transaction import Transaction
from flows import redrive as module
from flows import resend
from flows.local_kafka import LocalKafka
from flows.outbox import Outbox, Parcel
from flows.records import Outgoing
from flows.redrive import Choice, Outcome, redrive
from flows.rejected import Place
from flows.settings import Settings
from flows.sink import KafkaSink
from flows.topics import largest_records
from tests.chaos import topic_log
from tests.flows.running import QUIET, ROOT, Received, limit_size, running
from tests.flows.traffic import Sent, pay, transaction_message

Topics = Callable[[str, int], str]
PURPOSES = ("transactions", "labels", "scored", "alerts", "rejected")


class WithoutMarks(Outbox):
    """An outbox whose topics have no gaps in their offsets, so that a test can count by them."""

    def __init__(self, settings: Settings) -> None:
        self.limits = largest_records(settings, [settings.rejected_topic])
        self._producer = Producer({**settings.kafka, **QUIET})
        self._ends, self._refused = {}, None

    def put(self, parcels: Sequence[Parcel]) -> None:
        for topic, partition, records in parcels:
            self._produce(topic, partition, records, self._ends, asked=True)

    def settle(self) -> None:
        assert self._producer.flush(30) == 0


class Desk:
    """Five topics with a flow's rejections in them, and the redrive of that flow."""

    def __init__(self, kafka: LocalKafka, topics: Topics) -> None:
        self.bootstrap = kafka.bootstrap_servers
        self.topics = {purpose: topics(purpose, 2) for purpose in PURPOSES}
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_GROUP_ID": f"flow-{uuid.uuid4().hex[:8]}",
            **{f"VIGIE_{purpose.upper()}_TOPIC": topic for purpose, topic in self.topics.items()},
        }
        self.settings = Settings.from_environment(self.environment)

    def produce(self, purpose: str, values: Iterable[bytes | None], partition: int = 0, **properties: object) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, **QUIET, **properties})
        for value in values:
            producer.produce(self.topics[purpose], value, b"k", partition)
        assert producer.flush(30) == 0
        producer.close()

    def reject(
        self, code: str, values: Iterable[bytes | None], *, offset: int = 0, source: str = "transactions", part: int = 0
    ) -> None:
        """The values were read from the source topic from that offset on, and could not be scored."""
        kafka_sink = KafkaSink(self.settings, self.topics["rejected"], WithoutMarks(self.settings), cut=True)
        writer = kafka_sink.build_part("step", f"{part:05d}", None)
        for number, value in enumerate(values, start=offset):
            headers = {
                "error_code": code,
                "error_message": "é",
                "source_topic": self.topics.get(source, source),
                "source_partition": str(part),
                "source_offset": str(number),
                "rejected_at": "2026-01-01T00:00:00Z",
            }
            writer.write_batch([[Outgoing(b"k%d" % number, value, headers)]])
            writer.snapshot()

    def redrive(self, *, dry_run: bool = False, **choice: object) -> Outcome:
        return redrive(self.settings, Choice(**choice), dry_run=dry_run)  # type: ignore[arg-type]  # the fields' own

    def back(self, purpose: str = "transactions") -> list[Received]:
        """What the redrive has sent."""
        found = topic_log.read(self.bootstrap, self.topics[purpose], begin=OFFSET_BEGINNING)
        return [r for r in found if "redriven_from" in r.headers]

    def start(self, changes: str = "") -> subprocess.Popen[str]:
        """The redrive as a process of its own, with changes to its modules."""
        command = f"{changes}; import sys, flows.redrive; sys.exit(flows.redrive.main([]))"
        return subprocess.Popen(
            [sys.executable, "-c", command],
            cwd=ROOT,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def desk(kafka: LocalKafka, topics: Topics) -> Desk:
    return Desk(kafka, topics)


def garbage(n: int, begin: int = 0) -> list[bytes]:
    return [b"garbage %d" % number for number in range(begin, begin + n)]


def message(transaction: Transaction) -> bytes:
    value = transaction_message(transaction).value
    assert value is not None
    return value


def test_each_goes_back_to_its_partition_once_as_it_was(desk: Desk) -> None:
    desk.reject("not_json", garbage(3))
    desk.reject("not_json", garbage(2), part=1)
    desk.reject("empty_value", [None, b""], offset=7, part=1)
    desk.reject("wrong_type", [b"{}"], source="labels")
    outcome = desk.redrive()
    assert outcome.read == 8
    assert outcome.sent == Counter(not_json=5, empty_value=2, wrong_type=1)
    assert not outcome.left
    back = desk.back()
    assert [(r.key, r.value) for r in back if r.partition == 0] == [(b"k%d" % n, b"garbage %d" % n) for n in range(3)]
    assert [(r.key, r.value) for r in back if r.partition == 1] == [
        *((b"k%d" % n, b"garbage %d" % n) for n in range(2)),
        *((b"k7", None), (b"k8", b"")),
    ]
    places = [f"{desk.topics['rejected']}[1]@{n}" for n in range(4)]
    assert [r.headers["redriven_from"] for r in back if r.partition == 1] == places
    assert all(r.headers.keys() == {"redriven_from", "redriven_at"} for r in back)
    assert [r.value for r in desk.back("labels")] == [b"{}"]

    again = desk.redrive()
    assert (again.read, again.sent.total()) == (0, 0)
    desk.reject("not_json", [b"new"])
    assert desk.redrive().sent == Counter(not_json=1)
    assert len(desk.back()) == 8


def test_client_properties_meant_for_the_flow_do_no_harm(desk: Desk) -> None:
    few = {"KAFKA_QUEUE_BUFFERING_MAX_MESSAGES": "20", "KAFKA_DELIVERY_TIMEOUT_MS": "300000", "KAFKA_ACKS": "1"}
    desk.settings = Settings.from_environment(desk.environment | few)
    desk.reject("not_json", garbage(100))
    assert desk.redrive().sent == Counter(not_json=100)
    assert [r.value for r in desk.back()] == garbage(100)


def test_a_partition_that_is_not_there_any_more_is_chosen_by_the_key(desk: Desk) -> None:
    headers = {"error_code": "not_json", "source_topic": desk.topics["transactions"], "source_partition": "7"}
    producer = Producer({"bootstrap.servers": desk.bootstrap, **QUIET})
    for more in ({}, {"value_cut_from_bytes": "99"}):
        all_headers: dict[str, str | bytes | None] = {**headers, "source_offset": "3", **more}
        producer.produce(desk.topics["rejected"], b"garbage", b"k", 0, headers=all_headers)
    assert producer.flush(30) == 0
    outcome = desk.redrive()
    assert outcome.sent == Counter(not_json=1)
    assert outcome.left == Counter({"cut, and its source no longer holds it whole": 1})
    assert [(r.key, r.value) for r in desk.back()] == [(b"k", b"garbage")]


def test_other_codes_are_left_for_a_later_redrive(desk: Desk) -> None:
    desk.reject("not_json", garbage(3))
    desk.reject("too_late", garbage(2, 3))
    desk.reject("wrong_type", garbage(1, 5))
    first = desk.redrive(codes=("too_late",))
    assert first.sent == Counter(too_late=2)
    assert first.left == Counter({"its code is not chosen: for a later redrive": 4})
    assert desk.redrive(codes=("too_late",)).sent == Counter()
    desk.reject("too_late", garbage(1, 6))
    assert desk.redrive(codes=("not_json", "too_late"), limit=2).sent == Counter(not_json=2)
    assert desk.redrive(codes=("not_json", "too_late")).sent == Counter(not_json=1, too_late=1)
    assert desk.redrive().sent == Counter(wrong_type=1)
    assert desk.redrive().read == 0
    assert Counter(r.value for r in desk.back()) == Counter(garbage(7))


def test_a_limit_and_an_instant_end_it_early_and_a_dry_run_does_nothing(desk: Desk) -> None:
    desk.reject("not_json", garbage(4))
    desk.reject("not_json", garbage(4, 4), part=1)
    time.sleep(0.05)
    instant = time.time_ns() // 1000
    time.sleep(0.05)
    desk.reject("not_json", garbage(2, 8), part=1)
    assert desk.redrive(dry_run=True).sent == Counter(not_json=10)
    assert desk.redrive(dry_run=True, limit=3).sent == Counter(not_json=3)
    assert desk.redrive(dry_run=True, since=instant).sent == Counter(not_json=2)
    assert desk.back() == []
    assert desk.redrive(limit=3).sent == Counter(not_json=3)
    assert desk.redrive(limit=3).sent == Counter(not_json=3)
    assert desk.redrive(until=instant).sent == Counter(not_json=2)
    assert Counter(r.value for r in desk.back()) == Counter(garbage(8))
    desk.reject("not_json", garbage(1, 10))
    passed_over = desk.redrive(since=time.time_ns() // 1000 + 10_000_000)
    assert passed_over.left == Counter({"rejected before --since": 3})
    assert desk.redrive().read == 0


def test_what_was_scored_is_not_scored_again(desk: Desk) -> None:
    payments = [pay(f"t{n}", day=n / 10, account=f"a{n % 3}") for n in range(9)]
    desk.reject("too_late", map(message, payments))
    desk.reject("not_json", [b"garbage"])
    scored = [b'{"transaction_id":"%b","account_id":"%b"}' % pair for pair in ((b"t4", b"a1"), (b"t5", b"a2"))]
    # The same id of another account is another transaction.
    desk.produce("scored", [*scored, b'{"transaction_id":"t6","account_id":"a1"}', b"stray"], partition=1)
    outcome = desk.redrive()
    assert outcome.sent == Counter(too_late=7, not_json=1)
    assert outcome.left == Counter({"already scored": 2})
    assert f"left {desk.topics['rejected']}[0]@4: already scored" in outcome.named
    assert {r.value for r in desk.back()} == {
        b"garbage",
        *(message(p) for n, p in enumerate(payments) if n not in (4, 5)),
    }


def test_what_does_not_come_from_the_flows_topics_is_named_and_left(desk: Desk) -> None:
    desk.reject("not_json", garbage(1), source="payroll")
    desk.reject("not_json", garbage(1, 1), source="scored")
    desk.produce("rejected", [b"written by somebody else"])
    desk.reject("not_json", garbage(1, 2))
    outcome = desk.redrive()
    assert outcome.sent == Counter(not_json=1)
    assert outcome.left["came from payroll, which the flow does not read"] == 1
    assert outcome.left["not written by the flow"] == 1
    assert outcome.left.total() == len(outcome.named) == 3
    assert desk.back("scored") == []
    assert desk.redrive().read == 0


def test_what_was_cut_is_sent_whole_where_kafka_still_holds_it(kafka: LocalKafka, desk: Desk) -> None:
    limit_size(kafka.bootstrap_servers, desk.topics["rejected"], 3000)
    values = [os.urandom(5000) for _ in range(6)]
    desk.produce("transactions", values)
    desk.reject("not_utf8", values)
    cut = topic_log.read(desk.bootstrap, desk.topics["rejected"])
    assert all(len(r.value or b"") < 3000 for r in cut)
    gone = TopicPartition(desk.topics["transactions"], 0, 2)
    admin = AdminClient({"bootstrap.servers": desk.bootstrap, **QUIET})
    admin.delete_records([gone])[gone].result(timeout=30)
    outcome = desk.redrive()
    assert outcome.sent == Counter(not_utf8=4)
    assert outcome.left == Counter({"cut, and its source no longer holds it whole": 2})
    assert [r.value for r in desk.back()] == values[2:]


def test_what_its_topic_would_not_take_is_left(kafka: LocalKafka, desk: Desk) -> None:
    """Or else it would stop every redrive for ever."""
    desk.reject("not_json", [b"x" * 1500, b"y" * 500])
    limit_size(kafka.bootstrap_servers, desk.topics["transactions"], 1700)
    # Nor more at a time than it takes: a batch counts as one record there.
    desk.reject("not_json", [os.urandom(500) for _ in range(20)])
    outcome = desk.redrive()
    assert outcome.left == Counter({"too large for its topic with two headers more": 1})
    assert [len(r.value or b"") for r in desk.back()] == [500] * 21


def test_a_topic_that_ends_in_transaction_markers_ends(desk: Desk) -> None:
    desk.reject("not_json", garbage(2))
    (record, _) = topic_log.read(desk.bootstrap, desk.topics["rejected"])
    producer = Producer({"bootstrap.servers": desk.bootstrap, "transactional.id": uuid.uuid4().hex, **QUIET})
    producer.init_transactions(30)
    for commit in (True, False, True, False):
        producer.begin_transaction()
        producer.produce(
            desk.topics["rejected"], b"c" if commit else b"a", None, 0, headers=list(record.headers.items())
        )
        producer.flush(30)
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)
    assert desk.redrive().sent == Counter(not_json=4)
    producer.begin_transaction()
    producer.produce(desk.topics["rejected"], b"open", None, 0, headers=list(record.headers.items()))
    producer.flush(30)
    assert desk.redrive().read == 0  # does not wait
    producer.commit_transaction(30)
    assert desk.redrive().sent == Counter(not_json=1)
    assert [r.value for r in desk.back()] == [*garbage(2), b"c", b"c", b"open"]


FEW = "import flows.redrive; flows.redrive.RECORDS = 10"
DIES = """
import os
from confluent_kafka import Producer
import flows.resend
class Dying(Producer):
    left = {n}
    def commit_transaction(self, timeout):
        Dying.left -= 1
        if Dying.left < 0:
            assert self.flush(30) == 0
            os.kill(os.getpid(), 9)
        super().commit_transaction(timeout)
flows.resend.Producer = Dying
import flows.redrive; flows.redrive.RECORDS = 10"""


def test_kill_in_the_middle_sends_each_once(desk: Desk) -> None:
    desk.reject("not_json", garbage(35))
    desk.reject("not_json", garbage(20, 35), part=1)
    for n in (0, 2, 1):  # transactions that each is granted
        process = desk.start(DIES.format(n=n))
        output, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, output
    assert len(desk.back()) == 30
    last = desk.start(FEW)
    output, _ = last.communicate(timeout=60)
    assert last.returncode == 0, output
    assert "sent, not_json" in output
    assert Counter(r.value for r in desk.back()) == Counter(garbage(55))


def test_an_error_before_the_commit_leaves_nothing_behind(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Producer):
        def commit_transaction(self, timeout: float = -1) -> None:
            assert self.flush(timeout) == 0
            raise RuntimeError("the machine is on fire")

    desk.reject("not_json", garbage(15))
    with monkeypatch.context() as patched:
        patched.setattr(resend, "Producer", Failing)
        with pytest.raises(RuntimeError, match="on fire"):
            desk.redrive()
    assert desk.back() == []
    assert desk.redrive().sent == Counter(not_json=15)
    assert [r.value for r in desk.back()] == garbage(15)


def test_a_redrive_that_starts_fences_one_that_runs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.reject("not_json", garbage(30))
    monkeypatch.setattr(module, "RECORDS", 10)
    others: list[Outcome] = []

    class Overtaken(resend.Sender):
        times = 0

        def transact(self, *arguments: object) -> None:
            Overtaken.times += 1
            if Overtaken.times == 2:
                monkeypatch.setattr(module, "Sender", resend.Sender)
                others.append(desk.redrive())
            super().transact(*arguments)  # type: ignore[arg-type]  # handed through as they came

    monkeypatch.setattr(module, "Sender", Overtaken)
    with pytest.raises(KafkaFailure, match="another redrive has started"):
        desk.redrive()
    assert [other.sent.total() for other in others] == [20]
    assert Counter(r.value for r in desk.back()) == Counter(garbage(30))


def test_a_late_transaction_is_scored_once_the_flow_is_more_patient(kafka: LocalKafka, tmp_path: Path) -> None:
    with running(kafka.bootstrap_servers, tmp_path, {"KAFKA_GROUP_ID": f"flow-{uuid.uuid4().hex[:8]}"}) as flow:
        flow.with_recovery()
        payments = [pay(f"t{n}", day=10 + n / 10) for n in range(10)]
        late = [pay(f"late{n}", day=5 + n / 10) for n in range(3)]
        flow.produce("transactions", map(transaction_message, [*payments, *late]))
        flow.produce("transactions", [Sent("a", b"garbage")])
        flow.start()  # the other partitions are empty, so for a minute no window moves on without the late ones
        flow.read_all("scored", 10)
        (*_, last) = flow.read_all("rejected", 4)
        assert Counter(r.headers["error_code"] for r in flow.read_all("rejected", 4)) == Counter(too_late=3, not_json=1)
        assert flow.stop() == 0
        flow.environment |= {"VIGIE_ALLOWED_LATENESS": "30d", "VIGIE_DUPLICATE_HORIZON": "60d"}
        flow.start()

        def run(*words: str) -> str:
            command = [sys.executable, "-m", "flows.redrive", *words]
            environment = os.environ | flow.environment
            return subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True
            ).stdout

        assert "would be sent, too_late" in run("--dry-run")
        assert "sent, too_late" in run()
        scored = flow.read_all("scored", 13)
        rejected = flow.read_all("rejected", 5)
        # Every rejection is done but the one of the garbage that has just been rejected once more.
        assert "too_late" not in run("--code", "too_late")
        assert flow.stop() == 0
        scored, rejected = (
            topic_log.read(kafka.bootstrap_servers, flow.topics[topic]) for topic in ("scored", "rejected")
        )
    assert Counter(r.json["transaction_id"] for r in scored) == Counter(p.transaction_id for p in [*payments, *late])
    again = [r for r in rejected if r.value == b"garbage"]
    assert len(again) == 2
    assert len({r.headers["source_offset"] for r in again}) == 2
    assert len(rejected) == 5
    assert last in rejected


def test_without_kafka_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("VIGIE_KAFKA_TIMEOUT", "0.3s")
    assert module.main([]) == 2
    assert capsys.readouterr().err.startswith("redrive: no Kafka at 127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--code", "too_late,nonsense"], "nonsense: no such code; there are empty_value"),
        (["--since", "2026-01-01T00:00:00"], "is not an instant such as 2026-04-01T12:00:00Z"),
        (["--until", "yesterday"], "is not an instant such as 2026-04-01T12:00:00Z"),
        (["--limit", "0"], "--limit is 0"),
    ],
)
def test_words_that_cannot_be_used_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(words) == 2
    assert said in capsys.readouterr().err


def status(words: list[str]) -> object:
    """What the command ends with, whether argparse refuses a word or the command does."""
    try:
        return module.main(words)
    except SystemExit as stopped:
        return stopped.code


def test_the_table_says_what_became_of_all() -> None:
    outcome = Outcome(12_345, Counter(not_json=1_000, too_late=2), Counter({"already scored": 3}))
    console = Console(width=60, record=True)
    outcome.show(console, dry_run=False)
    shown = [line.strip("│┃ ").split("│") for line in console.export_text().splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in shown] == [
        ["read", "12,345"],
        ["sent, not_json", "1,000"],
        ["sent, too_late", "2"],
        ["left, already scored", "3"],
    ]


def test_each_code_has_a_place_of_its_own() -> None:
    place = Place(10, {}).moved(("too_late",), 30).moved(("not_json", "too_late"), 20)
    assert (place.of("too_late"), place.of("not_json"), place.of("wrong_type")) == (30, 20, 10)
    assert place.least(()) == place.least(("wrong_type", "too_late")) == 10
    assert place.least(("not_json", "too_late")) == 20
    assert Place.committed(place.stored("rejected", 0)) == place
    assert place.moved((), 25) == Place(25, {"too_late": 30})
    assert place.moved((), 30) == Place(30, {})
    assert place.moved((), 5).offset == 10
    assert Place.committed(TopicPartition("rejected", 0)) == Place(0, {})
