"""The Kafka end where records enter: order, lateness, places to start and to go on from, and what stops it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY

from features.errors import KafkaFailure
from features.transaction import Label, Transaction, microseconds
from flows import lanes, poll, source, stop
from flows.handover import committed
from flows.intake import Dealt, Intake, Reading, too_late
from flows.invocation import Invocation
from flows.journal import NOTHING, Position
from flows.local_kafka import LocalKafka
from flows.records import Beat, Rejection
from flows.settings import Settings
from flows.source import KafkaSource, Positions, Reader
from tests.features.histories import MONDAY
from tests.flows.running import IN_ORDER, QUIET
from tests.flows.traffic import DAY, history, label_message, pay, transaction_message

Topics = Callable[[str, int], str]


class Arrival(NamedTuple):
    """What the reader hands on, as the intake gets it; ``too_late``: its rejection where the intake will reject it."""

    event: Transaction | Label
    watermark: int
    too_late: Rejection | None


class Witness:
    """In place of the intake: notes what it gets."""

    def __init__(self, keys: Sequence[str] = (), past: Sequence[list[Dealt]] = ()) -> None:
        self.keys = keys
        self._past = past

    def past(self) -> Iterator[list[Dealt]]:
        yield from self._past

    def take(self, readings: Sequence[Reading], watermark: int) -> list[Arrival | Rejection]:
        taken: list[Arrival | Rejection] = []
        for reading in readings:
            event = reading.event
            if isinstance(event, Rejection):
                taken.append(event)
            else:
                late = isinstance(event, Transaction) and (reading.late or event.timestamp < watermark)
                taken.append(Arrival(event, watermark, too_late(reading) if late else None))
        return taken

    def save(self) -> Position:
        return NOTHING

    def close(self) -> None:
        pass


def read(
    settings: Settings, positions: Positions | None = None, until: dict[tuple[str, int], int] | None = None
) -> Reader:
    return Reader(settings, positions or source.NOWHERE, cast("Intake", Witness()), until)


def batch(reader: Reader) -> list[Arrival | Rejection]:
    return cast("list[Arrival | Rejection]", reader.next_batch())


class Place:
    """Topics of a test's own, and readers of them."""

    def __init__(self, kafka: LocalKafka, topics: Topics, partitions: int) -> None:
        self.bootstrap = kafka.bootstrap_servers
        self.transactions = topics("transactions", partitions)
        self.labels = topics("labels", 1)
        self.rejected = topics("rejected", 2)
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_FETCH_WAIT_MAX_MS": "20",
            "VIGIE_TRANSACTIONS_TOPIC": self.transactions,
            "VIGIE_LABELS_TOPIC": self.labels,
            "VIGIE_REJECTED_TOPIC": self.rejected,
        }

    def produce(self, *messages: tuple[int, Transaction | Label | bytes | None], **properties: Any) -> None:
        """Sends each to a partition; bytes and None go to the transactions."""
        producer = Producer({"bootstrap.servers": self.bootstrap, **IN_ORDER, **QUIET, **properties})
        if "transactional.id" in properties:
            producer.init_transactions(30)
            producer.begin_transaction()
        for partition, record in messages:
            if isinstance(record, Label):
                producer.produce(self.labels, label_message(record).value, partition=partition)
            elif isinstance(record, Transaction):
                producer.produce(self.transactions, transaction_message(record).value, "key", partition)
            else:
                producer.produce(self.transactions, record, partition=partition)
        if "transactional.id" in properties:
            producer.commit_transaction(30)
        assert producer.flush(30) == 0
        producer.close()

    @contextmanager
    def reader(self, positions: Positions | None = None, **changes: str) -> Iterator[Reader]:
        reader = read(Settings.from_environment(self.environment | changes), positions)
        try:
            yield reader
        finally:
            reader.close()


def take(reader: Reader, n: int) -> list[Arrival | Rejection]:
    """The next n records or a few more, as soon as they are there."""
    taken: list[Arrival | Rejection] = []
    give_up = time.monotonic() + 20
    while len(taken) < n:
        assert time.monotonic() < give_up, f"{len(taken)} of {n}: {taken}"
        some = batch(reader)
        taken += some
        if not some:
            time.sleep(0.001)  # as Bytewax does
    return taken


def events(taken: list[Arrival | Rejection]) -> list[Transaction | Label]:
    return [item.event for item in taken if isinstance(item, Arrival)]


@pytest.fixture(autouse=True)
def not_stopped() -> Iterator[None]:
    stop.requested.clear()
    yield
    stop.requested.clear()


def test_partitions_of_both_topics_leave_as_one_stream_in_order_of_time(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 3)
    transactions, labels = history(1000)
    place.produce(*((i % 3, t) for i, t in enumerate(transactions)))
    place.produce(*((0, label) for label in labels))
    with place.reader() as reader:
        taken = take(reader, len(transactions) + len(labels))
    # Ties go by partition, and labels come first.
    order: list[tuple[int, int, Transaction | Label]] = [(label.labelled_at, -1, label) for label in labels]
    order += [(t.timestamp, i % 3, t) for i, t in enumerate(transactions)]
    order.sort(key=lambda item: item[:2])
    assert events(taken) == [event for _, _, event in order]
    assert not any(item.too_late for item in taken if isinstance(item, Arrival))
    watermarks = [item.watermark for item in taken if isinstance(item, Arrival)]
    assert watermarks == sorted(watermarks)
    for i, item in enumerate(taken):
        assert isinstance(item, Arrival)
        rest = [later.timestamp for later in events(taken[i : i + 50]) if isinstance(later, Transaction)]
        assert item.watermark <= min(rest, default=item.watermark)
    assert watermarks[-1] >= 0


def test_goes_on_from_any_snapshot_with_exactly_the_rest(
    kafka: LocalKafka, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "BATCH", 5)
    place = Place(kafka, topics, 2)
    transactions, labels = history(400)
    place.produce(*((i % 2, t) for i, t in enumerate(transactions)))
    place.produce(*((0, label) for label in labels), (1, b"garbage"))
    total = len(transactions) + len(labels) + 1
    with place.reader() as reader:
        taken, snapshots = list[Arrival | Rejection](), [(0, reader.snapshot())]
        while len(taken) < total:
            taken += take(reader, 1)
            snapshots.append((len(taken), reader.snapshot()))
    assert len(snapshots) > 3  # how many depends on how the partitions come
    for done, positions in snapshots[:: max(1, len(snapshots) // 3)]:
        assert sum(positions.offsets.values()) == done
        with place.reader(positions) as reader:
            rest = take(reader, total - done)
        assert events(taken[:done]) + events(rest) == events(taken)
        assert [i.value for i in rest if isinstance(i, Rejection)] == [
            i.value for i in taken[done:] if isinstance(i, Rejection)
        ]


def test_a_start_from_latest_keeps_its_place_though_nothing_was_read(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 2)
    place.produce((0, pay("old", day=0)), (1, pay("old-too", day=0)))
    with place.reader(VIGIE_START_FROM="latest") as reader:
        assert batch(reader) == []
        positions = reader.snapshot()
    place.produce((0, pay("new", day=1)))
    with place.reader(positions, VIGIE_START_FROM="latest") as reader:
        assert [t.transaction_id for t in events(take(reader, 1))] == ["new"]
    with place.reader(VIGIE_START_FROM="earliest") as reader:
        assert {t.transaction_id for t in events(take(reader, 3))} == {"old", "old-too", "new"}


def test_until_given_offsets_all_before_them_leaves_and_nothing_else(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 3)
    transactions, labels = history(300)
    place.produce(*((i % 2, t) for i, t in enumerate(transactions)), **{"transactional.id": place.transactions})
    place.produce(*((0, label) for label in labels))
    # In the middle; at the end, behind a mark that no record reaches; where there is nothing.
    until = {(place.transactions, 0): 40, (place.transactions, 1): 151, (place.transactions, 2): 0}
    reader = read(Settings.from_environment(place.environment), until=until)
    taken: list[Arrival | Rejection] = []
    give_up = time.monotonic() + 20
    with suppress(StopIteration):
        while True:
            assert time.monotonic() < give_up
            taken += batch(reader)
    reader.snapshot()
    positions = reader.snapshot()
    reader.close()
    found = {t.transaction_id for t in events(taken) if isinstance(t, Transaction)}
    assert found == {t.transaction_id for i, t in enumerate(transactions) if i % 2 or i < 80}
    assert [positions.offsets[place.transactions, n] for n in range(3)] == [40, 150, 0]
    assert committed(Settings.from_environment(place.environment)).offsets == {}, "nothing is committed"
    with place.reader(positions) as reader:
        rest = {t.transaction_id for t in events(take(reader, 110)) if isinstance(t, Transaction)}
    assert rest == {t.transaction_id for t in transactions} - found


def test_late_by_more_than_allowed_is_decided_within_the_partition(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 2)
    in_order = [("a", 10.0), ("just-in-time", 9.0), ("too-late", 9.0 - 1e-6), ("b", 10.5), ("too-late-now", 9.4)]
    place.produce(*((0, pay(name, day=day)) for name, day in in_order))
    place.produce(*((1, pay(name, day=day)) for name, day in [("other", 8.0), ("other-2", 7.5)]))
    with place.reader() as reader:
        arrivals = [item for item in take(reader, 7) if isinstance(item, Arrival)]
    late = {item.event.transaction_id: item.too_late for item in arrivals if item.too_late}
    assert late.keys() == {"too-late", "too-late-now"}
    rejection = late["too-late"]
    assert rejection is not None
    assert rejection.key == b"key"
    assert rejection.value == transaction_message(pay("too-late", day=9.0 - 1e-6)).value
    assert rejection.code == "too_late"
    assert "VIGIE_ALLOWED_LATENESS" in rejection.headers["error_message"]
    place_of = {name: rejection.headers[f"source_{name}"] for name in ("topic", "partition", "offset")}
    assert place_of == {"topic": place.transactions, "partition": "0", "offset": "2"}
    with place.reader(VIGIE_ALLOWED_LATENESS="2d") as reader:
        assert not any(item.too_late for item in take(reader, 7) if isinstance(item, Arrival))


def test_what_is_too_late_is_the_same_after_a_restart(kafka: LocalKafka, topics: Topics) -> None:
    # By its own partition's measure, since the other one is far behind.
    place = Place(kafka, topics, 2)
    place.produce((0, pay("a", day=10)), (1, pay("b", day=5)))
    with place.reader() as reader:
        take(reader, 2)
        positions = reader.snapshot()
    place.produce((0, pay("too-late", day=8.9)), (0, pay("in-time", day=9.1)))
    with place.reader(positions) as reader:
        (first, second) = take(reader, 2)
    assert isinstance(first, Arrival)
    assert isinstance(second, Arrival)
    assert first.too_late
    assert not second.too_late
    assert positions.leads[place.transactions, 0] == MONDAY + 10 * DAY
    assert positions.watermark < MONDAY + 5 * DAY


def test_within_an_epoch_and_when_it_is_read_again_the_watermark_is_the_same(
    kafka: LocalKafka, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a record could be rejected by an epoch that is cut short, and scored by the one that takes its place."""
    monkeypatch.setattr(lanes, "IDLE", 0.05)
    place = Place(kafka, topics, 2)
    place.produce((0, pay("a", day=10)), (1, pay("b", day=7)))
    with place.reader() as reader:
        take(reader, 2)
        positions = reader.snapshot()
        time.sleep(0.2)
        place.produce((0, pay("c", day=11)))
        take(reader, 1)  # by now the second partition is silent
        place.produce((1, pay("d", day=8)))
        (first,) = take(reader, 1)
    with place.reader(positions) as reader:
        again = next(i for i in take(reader, 2) if isinstance(i, Arrival) and i.event.transaction_id == "d")
    assert isinstance(first, Arrival)
    assert (first.too_late, first.watermark) == (None, positions.watermark)
    assert (again.too_late, again.watermark) == (None, positions.watermark)


def test_what_was_rejected_as_ahead_of_the_clock_is_rejected_when_it_is_read_again(
    kafka: LocalKafka, topics: Topics
) -> None:
    place = Place(kafka, topics, 1)
    place.produce((0, pay("a", day=1)))
    with place.reader() as reader:
        take(reader, 1)
        positions = reader.snapshot()
    soon = Transaction("soon", "a", "m", 1, microseconds(datetime.now(UTC)) + 1_500_000)
    place.produce((0, soon))
    with place.reader(positions, VIGIE_FUTURE_TOLERANCE="0s") as reader:
        (rejected,) = take(reader, 1)
    assert isinstance(rejected, Rejection)
    producer = Producer({"bootstrap.servers": place.bootstrap, **QUIET})
    producer.produce(place.rejected, rejected.value, rejected.key, headers=list(rejected.headers.items()))
    assert producer.flush(10) == 0
    time.sleep(2)
    with place.reader(positions, VIGIE_FUTURE_TOLERANCE="0s") as reader:
        (again,) = take(reader, 1)
    assert isinstance(again, Rejection)
    assert again.code == "timestamp_in_future"
    later = positions._replace(taken_at=0)  # whoever does not look it up would score it
    with place.reader(later, VIGIE_FUTURE_TOLERANCE="0s") as reader:
        assert [event.transaction_id for event in events(take(reader, 1))] == ["soon"]


def test_a_run_that_does_not_come_to_what_was_rejected_leaves_it_to_the_next(kafka: LocalKafka, topics: Topics) -> None:
    """The look into the rejected topic goes back no further than the last state."""
    place = Place(kafka, topics, 1)
    soon = Transaction("soon", "a", "m", 1, microseconds(datetime.now(UTC)) - 1)
    place.produce((0, soon))
    ahead = frozenset({(place.transactions, 0, 0), (place.transactions, 0, 7)})
    with place.reader(Positions({}, {}, 0, 0, ahead)) as reader:
        assert reader.snapshot().ahead == ahead
        (rejected,) = take(reader, 1)
        assert isinstance(rejected, Rejection)
        assert reader.snapshot().ahead == {(place.transactions, 0, 7)}


def test_a_word_on_half_of_a_surrogate_pair_can_be_written(kafka: LocalKafka, topics: Topics) -> None:
    """Or else one such record would stop the flow at every start."""
    place = Place(kafka, topics, 1)
    record = {"transaction_id": "\ud800" + "x" * 70, "account_id": "a", "merchant_id": "m", "amount": 1}
    place.produce((0, json.dumps(record | {"timestamp": "2018-04-01T00:00:00Z"}).encode()))
    with place.reader() as reader:
        (rejected,) = take(reader, 1)
    assert isinstance(rejected, Rejection)
    assert rejected.code == "id_too_long"
    assert "\\ud800xxx" in rejected.headers["error_message"].encode().decode()


def test_what_becomes_known_at_the_instant_of_a_transaction_comes_before_it(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 1)
    earlier, now = pay("earlier", day=1), pay("now", day=8)
    label = Label("earlier", "a", "m", earlier.timestamp, is_fraud=True, labelled_at=now.timestamp)
    place.produce((0, earlier), (0, now), (0, label))
    with place.reader() as reader:
        assert events(take(reader, 3)) == [earlier, label, now]


def test_a_partition_that_was_silent_is_measured_against_the_others(
    kafka: LocalKafka, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "IDLE", 0.3)
    place = Place(kafka, topics, 2)
    place.produce((0, pay("a", day=10)), (1, pay("b", day=7)))
    with place.reader() as reader:
        take(reader, 2)
        give_up = time.monotonic() + 10
        number = 0
        while reader.snapshot().watermark < MONDAY + 9 * DAY:
            number += 1
            assert time.monotonic() < give_up
            place.produce((0, pay(f"c{number}", day=10 + number / 1e6)))
            take(reader, 1)
        place.produce((1, pay("too-late", day=8)), (1, pay("in-time", day=9.5)))
        late = {i.event.transaction_id: bool(i.too_late) for i in take(reader, 2) if isinstance(i, Arrival)}
    assert late == {"too-late": True, "in-time": False}


def test_what_cannot_be_read_is_a_rejection_in_its_place(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 1)
    future = microseconds(datetime.now(UTC)) + DAY
    place.produce(
        (0, pay("a", day=1)), (0, b"{"), (0, None), (0, pay("b", day=2)), (0, Transaction("f", "a", "m", 1, future))
    )
    with place.reader() as reader:
        taken = take(reader, 5)
    assert [type(item) for item in taken] == [Arrival, Rejection, Rejection, Arrival, Rejection]
    codes = [item.code for item in taken if isinstance(item, Rejection)]
    assert codes == ["not_json", "empty_value", "timestamp_in_future"]
    assert [item.headers["source_offset"] for item in taken if isinstance(item, Rejection)] == ["1", "2", "4"]
    with place.reader(VIGIE_FUTURE_TOLERANCE="2d") as reader:
        assert len(events(take(reader, 5))) == 3


def test_the_end_is_seen_behind_the_marks_that_transactions_leave(kafka: LocalKafka, topics: Topics) -> None:
    """Where a mark is the last thing in a partition, no record ever reaches its end."""
    place = Place(kafka, topics, 2)
    place.produce((0, pay("a", day=1)), (1, pay("b", day=2)), **{"transactional.id": place.transactions})
    began = time.monotonic()
    with place.reader() as reader:
        assert [t.transaction_id for t in events(take(reader, 2))] == ["a", "b"]
        place.produce((1, pay("c", day=3)))
        take(reader, 1)
    assert time.monotonic() - began < lanes.PATIENCE / 2


def test_a_lane_that_is_far_ahead_is_paused_and_nothing_is_lost(
    kafka: LocalKafka, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "BUFFERED", 50)
    monkeypatch.setattr(source, "BATCH", 20)
    place = Place(kafka, topics, 2)
    ahead = [pay(f"a{n}", day=5 + n / 1000) for n in range(500)]
    behind = [pay(f"b{n}", day=n / 1000) for n in range(500)]
    place.produce(*((0, t) for t in ahead))
    place.produce(*((1, t) for t in behind))
    with place.reader() as reader:
        assert events(take(reader, 1000)) == behind + ahead


def test_what_follows_the_end_of_a_partition_in_one_poll_says_that_it_has_gone_on(
    kafka: LocalKafka, topics: Topics
) -> None:
    place = Place(kafka, topics, 1)
    key = (place.transactions, 0)
    values = [transaction_message(pay(str(n), day=n)).value for n in range(2)]
    end = KafkaError(KafkaError._PARTITION_EOF)
    first, second = (Message(topic=key[0], partition=0, offset=n, value=value) for n, value in enumerate(values))
    with place.reader() as reader:
        lane = reader._lanes[key]
        reader._take(key, [first, Message(topic=key[0], partition=0, offset=1, error=end), second], 1 << 62)
        assert (lane.read_to, lane.moved) == (2, True)
        reader._take(key, [Message(topic=key[0], partition=0, offset=2, error=end)], 1 << 62)
        assert (lane.read_to, lane.moved, lane.at_end) == (2, False, True)
        assert events(take(reader, 2)) == [pay(str(n), day=n) for n in range(2)]


@pytest.mark.parametrize("full", [False, True])
def test_while_a_commit_is_under_way_it_rests_but_not_after_a_full_batch(
    kafka: LocalKafka, topics: Topics, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    monkeypatch.setattr(source, "REST", 3600.0)
    monkeypatch.setattr(source, "BATCH", 1 if full else 1000)
    place = Place(kafka, topics, 1)
    payments = [pay(f"a{n}", day=n) for n in range(20)]
    place.produce(*((0, payment) for payment in payments))
    busy = full  # or else it might rest after a poll that says only that a partition has no more
    settings = Settings.from_environment(place.environment)
    reader = Reader(settings, source.NOWHERE, cast("Intake", Witness()), busy=lambda: busy)
    try:
        taken = take(reader, 20 if full else 1)
        if not full:
            busy = True
            place.produce((0, pay("later", day=20)))
            time.sleep(0.3)
            assert not any(batch(reader) for _ in range(20))
            busy = False
            taken += take(reader, 21 - len(taken))
        assert events(taken)[:20] == payments
    finally:
        reader.close()


def test_offsets_that_are_gone_are_named_with_the_ways_out(
    kafka: LocalKafka, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(kafka, topics, 2)
    place.produce((0, pay("a", day=1)), (1, pay("b", day=1)))
    with place.reader() as reader:
        take(reader, 2)
        positions = reader.snapshot()
    place.produce(*((0, pay(f"b{n}", day=2)) for n in range(5)))
    admin = AdminClient({"bootstrap.servers": place.bootstrap, **QUIET})
    partition = TopicPartition(place.transactions, 0, 4)
    admin.delete_records([partition])[partition].result(timeout=10)
    lost = rf"{place.transactions}\[0\] offsets 1 to 3"
    with pytest.raises(KafkaFailure, match=rf"not read yet: {lost}\. .*VIGIE_EXPIRED_OFFSETS=skip.*just warm"):
        read(Settings.from_environment(place.environment), positions)
    with place.reader(positions, VIGIE_EXPIRED_OFFSETS="skip") as reader:
        assert [event.transaction_id for event in events(take(reader, 2))] == ["b3", "b4"]
    assert any(re.search(f"skipped.*{lost}", record.getMessage()) for record in caplog.records)


def test_a_topic_that_ends_before_the_place_to_go_on_from_is_refused(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 1)
    place.produce((0, pay("a", day=1)))
    positions = Positions({(place.transactions, 0): 5}, {}, 0, 0)
    with pytest.raises(KafkaFailure, match=r"\[0\] ends at offset 1, and the flow has come to 5: .*just warm"):
        read(Settings.from_environment(place.environment), positions)


def test_a_partition_that_is_new_is_read_whole(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 2)
    place.produce((0, pay("a", day=1)), (1, pay("b", day=1)))
    positions = Positions({(place.transactions, 0): 1, (place.labels, 0): 0, (place.labels, 1): 0}, {}, 0, 0)
    with place.reader(positions, VIGIE_START_FROM="latest") as reader:
        assert [event.transaction_id for event in events(take(reader, 1))] == ["b"]


def test_a_topic_without_records_gives_nothing_and_stops_when_told(kafka: LocalKafka, topics: Topics) -> None:
    with Place(kafka, topics, 2).reader() as reader:
        assert batch(reader) == []
        stop.requested.set()
        with pytest.raises(StopIteration):
            reader.next_batch()


def test_an_epoch_begins_with_a_beat_that_says_whether_the_journal_had_been_replayed(
    kafka: LocalKafka, topics: Topics
) -> None:
    settings = Settings.from_environment(Place(kafka, topics, 2).environment)
    intake = Witness(["0-0", "1-3"], past=[[], []])
    reader = Reader(settings, source.NOWHERE, cast("Intake", intake))

    def beats() -> list[bool]:
        found = list(reader.next_batch())
        assert [item.key for item in found if isinstance(item, Beat)] == intake.keys[: len(found)]
        return [item.replayed for item in found if isinstance(item, Beat)]

    try:
        assert beats() == [False, False]
        assert beats() == [], "there is one in an epoch"
        reader.snapshot()
        assert beats() == [False, False], "the last of the journal was read in this epoch"
        assert beats() == []
        reader.snapshot()
        assert beats() == [True, True]
        assert beats() == []
        reader.snapshot()
        assert beats() == [True, True]
    finally:
        reader.close()


def test_the_lag_is_what_has_not_left_and_event_time_that_of_the_slowest(kafka: LocalKafka, topics: Topics) -> None:
    place = Place(kafka, topics, 2)

    def told(what: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"vigie_{what}", labels)

    def lag(topic: str) -> list[float | None]:
        return [told("consumer_lag", topic=topic, partition=n) for n in ("0", "1")]

    now = time.time()
    ago = [pay(f"t{i}", day=i) for i in range(3)]
    ago = [msgspec.structs.replace(t, timestamp=round((now - 60 * (3 - i)) * 1e6)) for i, t in enumerate(ago)]
    place.produce((0, ago[0]), (0, ago[1]), (1, ago[2]))
    with place.reader() as reader:
        assert lag(place.transactions) == [None, None]
        assert told("watermark_lag_seconds") is None
        take(reader, 3)
        assert lag(place.transactions) == [0, 0]
        assert told("watermark_lag_seconds") == pytest.approx(time.time() - now + 120, abs=1)
        assert told("read_total", topic=place.transactions) == 3
        assert told("read_total", topic=place.labels) == 0
        give_up = time.monotonic() + 10
        while lag(place.labels) != [0, None]:
            assert time.monotonic() < give_up
            reader.next_batch()


def test_errors_that_pass_are_logged_and_others_stop_the_flow(caplog: pytest.LogCaptureFixture) -> None:
    for code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE):
        poll.raise_unless_passing(KafkaError(code), "transactions", 3)
    assert len(caplog.records) == 4
    with pytest.raises(KafkaFailure, match=r"reading transactions\[3\] failed: .*uthorization"):
        poll.raise_unless_passing(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "transactions", 3)


def test_the_first_process_reads_and_no_other() -> None:
    settings = Settings.from_environment({})
    parts = [KafkaSource(settings, Invocation(None, index, 3, str(index))).list_parts() for index in range(3)]
    assert parts == [["kafka"], [], []]
