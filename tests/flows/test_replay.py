"""A history as messages: nothing lost, nothing changed, labels when they became known, at the pace asked for."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast
from zlib import crc32

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.bots import SCENARIOS
from features.errors import InvalidSetting, KafkaFailure
from features.history import column_map, load
from features.transaction import microseconds, minor_units, parse_label, parse_transaction
from flows import replay
from flows.local_kafka import LocalKafka, free_port
from flows.mock_kafka import MockKafka
from flows.replay import History, Pace, during, frauds, publish, with_bots
from flows.settings import Settings
from tests.flows import settled
from tests.flows.running import Inbox, Received

BEGIN = datetime(2018, 4, 1, tzinfo=UTC)
EVER = 2**62
DAY = 86_400_000_000
WEEK = timedelta(days=7)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "transaction_id": pl.String,
    "account_id": pl.String,
    "merchant_id": pl.String,
    "amount": pl.Int64,
    "timestamp": pl.Datetime("us", "UTC"),
    "transaction_type": pl.String,
    "location": pl.String,
    "device_id": pl.String,
    "is_fraud": pl.Boolean,
    "labelled_at": pl.Datetime("us", "UTC"),
    "fraud_scenario": pl.String,
}
PLAIN = Settings.from_environment({})
Event = tuple[float, str, str, dict[str, Any]]


def made(n: int, *, days: int = 20, accounts: int = 9, merchants: int = 6, seed: int = 0) -> History:
    """A history; one in five a fraud, some of them with a label of their own time."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for number, offset in enumerate(sorted(rng.randrange(days * DAY) for _ in range(n))):
        instant = BEGIN + timedelta(microseconds=offset)
        fraud = rng.random() < 0.2
        own = fraud and rng.random() < 0.5
        rows.append(
            {
                "transaction_id": f"t{number}",
                "account_id": f"a{rng.randrange(accounts)}",
                "merchant_id": f"mé{rng.randrange(merchants)}",
                "amount": rng.choice([rng.randrange(1, 60_000), rng.randrange(-(10**12), 10**12)]),
                "timestamp": instant,
                "transaction_type": rng.choice(["online", "card", None]),
                "location": rng.choice(["Paris", "Nîmes", None]),
                "device_id": rng.choice([f"d{rng.randrange(5)}", None]),
                "is_fraud": fraud,
                "labelled_at": instant + rng.choice([1, 7, 12]) * timedelta(days=1) if own else None,
                "fraud_scenario": "stolen" if own else None,
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def paid(n: int) -> History:
    """Amounts as bots like them."""
    return made(n).with_columns(pl.col("amount") % 30_000 + 1)


def honest(history: History) -> History:
    return pl.DataFrame(history.with_columns(is_fraud=False, labelled_at=None, fraud_scenario=None), SCHEMA)


def save(history: History, path: Path) -> Path:
    """The history as a file, with amounts in major units."""
    history = history.with_columns(pl.Series("amount", history["amount"].to_numpy() / 100))
    if path.suffix == ".parquet":
        history.write_parquet(path)
    else:
        history.write_csv(path)
    return path


def schedule(history: History, pace: Pace, delay: timedelta | None) -> list[Event]:
    return list(replay._schedule(history, PLAIN, pace, delay))


# Parts of a history


def test_during_takes_the_beginning_and_leaves_the_end() -> None:
    history = made(50)
    first, last = history["timestamp"][10], history["timestamp"][20]
    assert during(history, first, last)["transaction_id"].to_list() == [f"t{i}" for i in range(10, 20)]
    assert during(history, first)["transaction_id"].to_list() == [f"t{i}" for i in range(10, 50)]


def test_frauds_are_told_with_their_kind() -> None:
    history = made(100)
    rows = history.rows(named=True)
    expected = {row["transaction_id"]: row["fraud_scenario"] or "fraud" for row in rows if row["is_fraud"]}
    assert set(expected.values()) == {"stolen", "fraud"}
    assert frauds(history) == expected


@pytest.mark.parametrize("history", [made(800), paid(800)])
def test_bots_leave_honest_transactions_alone(history: History) -> None:
    after = with_bots(history, SCENARIOS, 40.0, 5)
    assert after.schema == history.schema
    assert after["timestamp"].is_sorted()
    assert after["transaction_id"].is_unique().all()
    before = {row["transaction_id"]: row for row in history.rows(named=True)}
    now = {row["transaction_id"]: row for row in after.rows(named=True)}
    assert set(before) < set(now)
    left = {identity for identity, row in now.items() if not row["is_fraud"]}
    assert 0 < len(left) < len(history)
    assert {i: now[i] for i in left} == {i: before[i] for i in left}
    # Nor is a payment that a bot made its own moved in time or place.
    changed = {"amount", "is_fraud", "labelled_at", "fraud_scenario"}
    for identity, row in before.items():
        assert all(now[identity][name] == value for name, value in row.items() if name not in changed)
    assert set(frauds(history)) <= set(frauds(after))


def test_bots_say_what_they_did() -> None:
    history = honest(paid(800))
    after = with_bots(history, SCENARIOS, 40.0, 5)
    assert set(frauds(after).values()) == set(SCENARIOS)
    assert set(after.filter(~pl.col("is_fraud"))["fraud_scenario"]) == {None}
    added = after.filter(~pl.col("transaction_id").is_in(history["transaction_id"].to_list()))
    assert set(added["fraud_scenario"]) == {"account_takeover"}
    assert set(added["transaction_type"]) == {"online"}  # the type of that name, where a history has it
    assert not set(history["device_id"]) & set(added["device_id"])
    assert with_bots(history, SCENARIOS, 40.0, 5).equals(after)
    assert not with_bots(history, SCENARIOS, 40.0, 6).equals(after)


def test_bots_keep_what_is_known_of_the_frauds_of_others() -> None:
    history = paid(400)
    after = with_bots(history, ["card_theft"], 5.0, 1)
    theirs = pl.col("fraud_scenario") == "card_theft"
    taken = after.filter(theirs.fill_null(False))["transaction_id"].to_list()
    of_others = ~pl.col("transaction_id").is_in(taken)
    assert 0 < len(taken) < len(history)
    assert after.filter(of_others).equals(history.filter(of_others))
    assert after.filter(~of_others)["labelled_at"].is_null().all()


def test_bots_can_be_let_loose_twice() -> None:
    history = paid(800)
    once = with_bots(history, ["account_takeover"], 40.0, 5)
    twice = with_bots(once, ["account_takeover"], 40.0, 5)
    assert len(twice) > len(once) > len(history)
    assert twice["transaction_id"].is_unique().all()


def test_bots_of_no_history_do_nothing() -> None:
    assert with_bots(made(0), SCENARIOS, 1.0, 1).is_empty()


def test_an_unknown_bot_is_named() -> None:
    with pytest.raises(InvalidSetting, match=r"cardtheft.*card_theft"):
        with_bots(made(5), ["cardtheft"], 1.0, 1)


# When and in which order


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Few instants, so that transactions and labels tie; labels before, at and long after the end."""
    rows: list[dict[str, object]] = []
    hours = st.integers(0, 30)
    for number, hour in enumerate(sorted(draw(st.lists(hours, max_size=12)))):
        instant = BEGIN + timedelta(hours=hour)
        known = draw(st.none() | st.integers(0, 40))
        rows.append(
            {
                "transaction_id": f"t{number}",
                "account_id": draw(st.sampled_from("ab")),
                "merchant_id": draw(st.sampled_from("mn")),
                "amount": 12_34,
                "timestamp": instant,
                "is_fraud": draw(st.booleans()),
                "labelled_at": None if known is None else instant + timedelta(hours=known),
            }
        )
    return pl.DataFrame([{**dict.fromkeys(SCHEMA), **row} for row in rows], schema=SCHEMA, orient="row")


paces = st.sampled_from(
    [Pace(), Pace(rate=50), Pace(speed=3600), Pace(now=True), Pace(rate=50, now=True), Pace(speed=3600, now=True)]
)


def known_at(row: dict[str, Any], delay: timedelta) -> datetime:
    return cast(datetime, row["labelled_at"] or row["timestamp"] + delay)


@given(histories(), paces, st.sampled_from([timedelta(hours=h) for h in (1, 5, 100)]))
@settings(deadline=None, max_examples=60)
def test_labels_come_when_they_became_known(history: History, pace: Pace, delay: timedelta) -> None:
    events = schedule(history, pace, delay)
    rows = {row["transaction_id"]: row for row in history.rows(named=True)}
    payments = [message["transaction_id"] for _, topic, _, message in events if topic == "transactions"]
    assert payments == list(rows)
    end = history["timestamp"].to_list()[-1] if len(history) else BEGIN
    told = [message["transaction_id"] for _, topic, _, message in events if topic == "labels"]
    frauds_due = [i for i, row in rows.items() if row["is_fraud"] and known_at(row, delay) <= end]
    assert sorted(told) == sorted(frauds_due)
    seen: set[str] = set()
    for _, topic, key, message in events:
        row = rows[message["transaction_id"]]
        if topic == "transactions":
            assert key == row["account_id"]
            seen.add(message["transaction_id"])
            continue
        assert key == row["merchant_id"]
        known = known_at(row, delay)
        # Everything that happened before it became known, and nothing that happens then or after.
        assert seen == {i for i, other in rows.items() if other["timestamp"] < known}
    labels = [known_at(rows[i], delay) for i in told]
    assert labels == sorted(labels)


@given(histories(), paces)
@settings(deadline=None, max_examples=40)
def test_nothing_is_told_where_no_labels_are_wanted(history: History, pace: Pace) -> None:
    assert {topic for _, topic, _, _ in schedule(history, pace, None)} <= {"transactions"}


@given(histories(), paces)
@settings(deadline=None, max_examples=60)
def test_timestamps_are_the_historys_or_those_of_the_sending(history: History, pace: Pace) -> None:
    asked = time.monotonic()
    began = microseconds(datetime.now(UTC))
    events = schedule(history, pace, timedelta(hours=5))
    rows = {row["transaction_id"]: row for row in history.rows(named=True)}
    sent = [msgspec.json.encode(message) for _, topic, _, message in events if topic == "transactions"]
    stamps = {t.transaction_id: t.timestamp for t in (parse_transaction(message, EVER) for message in sent)}
    for due, topic, _, message in events:
        if topic == "transactions":
            stamp = stamps[message["transaction_id"]]
        else:
            encoded = msgspec.json.encode(message)
            label = parse_label(encoded, EVER)
            assert label.is_fraud
            assert label.timestamp == stamps[label.transaction_id]
            stamp = label.labelled_at
        if pace.now:
            assert stamp - began == pytest.approx((due - asked) * 1e6, abs=500_000)
        else:
            row = rows[message["transaction_id"]]
            expected = row["timestamp"] if topic == "transactions" else known_at(row, timedelta(hours=5))
            assert stamp == microseconds(expected)
    if pace.now:
        assert list(stamps.values()) == sorted(stamps.values())


def test_a_rate_spaces_transactions_evenly() -> None:
    due = [when for when, topic, _, _ in schedule(made(100), Pace(rate=50), WEEK) if topic == "transactions"]
    assert [when - due[0] for when in due] == pytest.approx([i / 50 for i in range(100)])


def test_a_speed_keeps_the_gaps() -> None:
    history = made(100)
    due = [when for when, topic, _, _ in schedule(history, Pace(speed=1000), WEEK) if topic == "transactions"]
    gaps = [(t - history["timestamp"][0]).total_seconds() / 1000 for t in history["timestamp"]]
    assert [when - due[0] for when in due] == pytest.approx(gaps)


def test_without_a_pace_everything_is_due_at_once() -> None:
    events = schedule(made(100), Pace(), WEEK)
    assert max(when for when, _, _, _ in events) <= time.monotonic()


@given(histories(), paces)
@settings(deadline=None, max_examples=40)
def test_a_label_waits_for_no_more_than_the_next_transaction(history: History, pace: Pace) -> None:
    due = [when for when, _, _, _ in schedule(history, pace, timedelta(hours=5))]
    assert due == sorted(due)


# To Kafka


class Room(NamedTuple):
    """Two topics of a test's own and the settings that name them."""

    settings: Settings
    environment: dict[str, str]

    def received(self) -> tuple[list[Received], list[Received]]:
        """All transactions and all labels."""
        found = []
        for topic in (self.settings.transactions_topic, self.settings.labels_topic):
            inbox = Inbox(self.settings.bootstrap, topic)
            found.append(inbox.read_to_end())
            inbox.close()
        return found[0], found[1]


@pytest.fixture
def room(kafka: LocalKafka, topics: Callable[[str, int], str]) -> Room:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "VIGIE_TRANSACTIONS_TOPIC": topics("transactions", 4),
        "VIGIE_LABELS_TOPIC": topics("labels", 3),
    }
    return Room(Settings.from_environment(environment), environment)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(("KAFKA_", "VIGIE_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_kafka_holds_the_history(room: Room) -> None:
    history = made(2000, accounts=40, merchants=30)
    sent_at: dict[str, float] = {}
    began = time.time()
    counts = publish(history, room.settings, Pace(), WEEK, sent_at)
    payments, labels = room.received()
    assert counts == (len(payments), len(labels))
    assert len(payments) == 2000
    assert set(sent_at) == set(history["transaction_id"])
    assert all(began <= at <= time.time() for at in sent_at.values())

    rows = {row["transaction_id"]: row for row in history.rows(named=True)}
    order: dict[int, list[int]] = {}
    for message in payments:
        t = parse_transaction(message.value, EVER)
        row = rows.pop(t.transaction_id)
        assert message.key == t.account_id.encode() == row["account_id"].encode()
        assert message.partition == crc32(message.key) % 4
        assert (t.merchant_id, t.amount, t.timestamp) == (
            *(row["merchant_id"], row["amount"]),
            microseconds(row["timestamp"]),
        )
        assert (t.transaction_type, t.location, t.device_id) == (
            *(row["transaction_type"], row["location"]),
            row["device_id"],
        )
        order.setdefault(message.partition, []).append(t.timestamp)
    assert not rows
    assert set(order) == set(range(4))
    assert all(instants == sorted(instants) for instants in order.values())

    rows = {row["transaction_id"]: row for row in history.rows(named=True) if row["is_fraud"]}
    due = {i: known_at(row, WEEK) for i, row in rows.items() if known_at(row, WEEK) <= history["timestamp"][-1]}
    for message in labels:
        label = parse_label(message.value, EVER)
        row = rows[label.transaction_id]
        assert message.key == label.merchant_id.encode() == row["merchant_id"].encode()
        assert message.partition == crc32(message.key) % 3
        assert (label.account_id, label.timestamp) == (row["account_id"], microseconds(row["timestamp"]))
        assert (label.is_fraud, label.labelled_at) == (True, microseconds(due.pop(label.transaction_id)))
    assert not due


def test_bots_are_let_loose_and_the_truth_is_written(
    room: Room,
    tmp_path: Path,
    clean_environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in room.environment.items():
        clean_environment.setenv(name, value)
    data, truth = save(honest(paid(1500)), tmp_path / "h.parquet"), tmp_path / "new" / "truth.parquet"
    words = [str(data), "--bots", ",".join(SCENARIOS), "--intensity", "40", "--seed", "3", "--limit", "1000"]
    assert replay.main([*words, "--truth", str(truth), "--label-delay", "2d"]) == 0
    written = pl.read_parquet(truth)
    payments, labels = room.received()
    assert f"sent {len(payments):,} transactions to {room.settings.transactions_topic}" in capsys.readouterr().out
    sent = {t.transaction_id: t for t in (parse_transaction(message.value, EVER) for message in payments)}
    assert {i: (t.amount, t.timestamp) for i, t in sent.items()} == {
        row["transaction_id"]: (minor_units(row["amount"]), microseconds(row["timestamp"]))
        for row in written.rows(named=True)
    }
    assert len(written) > 1000
    assert set(frauds(written).values()) == set(SCENARIOS)
    told = {label.transaction_id for label in (parse_label(message.value, EVER) for message in labels)}
    by_now = written.filter(pl.col("timestamp") <= pl.col("timestamp").max() - timedelta(days=2))
    assert told == set(frauds(by_now))
    # What was written can be sent again as it is.
    assert frauds(load(truth)) == frauds(written)


def test_a_message_that_kafka_refuses_ends_the_replay(kafka: LocalKafka) -> None:
    topic = f"small-{uuid.uuid4().hex[:8]}"
    settled.create(kafka.bootstrap_servers, topic, partitions=1, config={"max.message.bytes": "80"})
    settings = Settings.from_environment(
        {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "KAFKA_CLIENT_ID": topic,  # a producer of its own, since it is not to be used again
            "VIGIE_TRANSACTIONS_TOPIC": topic,
        }
    )
    with pytest.raises(KafkaFailure, match="did not take a message"):
        publish(made(10), settings, Pace(), None)


@pytest.fixture
def mock() -> Iterator[Settings]:
    with MockKafka(("transactions", "labels")) as cluster:
        yield Settings.from_environment(
            {"KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers, "VIGIE_CREATE_TOPICS": "false"}
        )


@pytest.mark.parametrize(("pace", "seconds"), [(Pace(rate=100), 0.59), (Pace(speed=3 * 86_400, now=True), 0.5)])
def test_sending_takes_as_long_as_was_asked_for(mock: Settings, pace: Pace, seconds: float) -> None:
    history = made(60, days=2).with_columns(is_fraud=False)
    if pace.speed:  # a day and a half, three days a second
        history = history.with_columns(
            timestamp=BEGIN + pl.duration(milliseconds=pl.int_range(60) / 59 * 1.5 * 86_400_000)
        )
    sent_at: dict[str, float] = {}
    began = time.time()
    publish(history, mock, pace, WEEK, sent_at)
    times = list(sent_at.values())
    # Nothing comes before its time. A busy machine may be late, but not so late as if it had waited for each in turn.
    assert all(at - began > seconds * nth / 59 - 0.05 for nth, at in enumerate(times))
    assert times == sorted(times)
    assert times[-1] - began < seconds + 20


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_of_any_names_and_types_arrives_as_training_reads_it(
    suffix: str, room: Room, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    for name, value in room.environment.items():
        clean_environment.setenv(name, value)
    history = made(300).with_columns(
        pl.Series("account_id", ["0012", "12", "2018-04-01"] * 100),
        pl.Series("location", [1001, None, 75001] * 100).cast(pl.Int64 if suffix == "parquet" else pl.String),
        pl.col("timestamp", "labelled_at").dt.convert_time_zone("Europe/Paris"),
        # None of the first rows has one, so that nobody can guess what the column holds.
        is_fraud=pl.int_range(300) > 150,
    )
    names = {"amount": "TX_AMOUNT", "timestamp": "TX_DATETIME"}
    data = save(history, tmp_path / "raw.parquet")
    raw = pl.read_parquet(data).rename(names)
    data = tmp_path / f"h.{suffix}"
    raw.write_parquet(data) if suffix == "parquet" else raw.write_csv(data)
    mapped = [word for name, column in names.items() for word in ("--column", f"{name}={column}")]
    assert replay.main([str(data), *mapped, "--label-delay", "3d"]) == 0

    payments, labels = room.received()
    sent = {t.transaction_id: t for t in (parse_transaction(message.value, EVER) for message in payments)}
    known = {label.transaction_id: label.labelled_at for label in (parse_label(m.value, EVER) for m in labels)}
    expected = load(data, column_map(options=[f"{name}={column}" for name, column in names.items()]))
    assert {(t.transaction_id, t.account_id, t.amount, t.timestamp, t.location) for t in sent.values()} == set(
        expected.select("transaction_id", "account_id", "amount", pl.col("timestamp").dt.epoch("us"), "location").rows()
    )
    end = microseconds(expected["timestamp"][-1])
    due = {
        row["transaction_id"]: known_at(row, timedelta(days=3)) for row in expected.rows(named=True) if row["is_fraud"]
    }
    assert known == {identity: microseconds(at) for identity, at in due.items() if microseconds(at) <= end}


# The command


def run(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = replay.main(words)
    return status, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rate", "0"], "--rate is 0"),
        (["--speed", "-1"], "--speed is -1"),
        (["--limit", "0"], "--limit is 0"),
        (["--label-delay", "7"], "'7' is not a span such as 90s"),
        (["--bots", "ghost"], "ghost"),
        (["--columns", "nowhere.toml"], "nowhere.toml"),
        (["--column", "amount"], "'amount' is not name=column"),
        (["--truth", "h.parquet/truth.parquet"], "h.parquet"),
    ],
)
def test_wrong_options_are_one_line(
    words: list[str],
    expected: str,
    tmp_path: Path,
    clean_environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean_environment.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    clean_environment.setenv("VIGIE_KAFKA_TIMEOUT", "1s")
    clean_environment.chdir(tmp_path)
    status, said = run([str(save(made(5), tmp_path / "h.parquet")), *words], capsys)
    assert status == 2
    assert said.startswith("replay: ")
    assert expected in said
    assert "\n" not in said


def test_no_kafka_is_one_line(
    tmp_path: Path, clean_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = f"127.0.0.1:{free_port()}"
    clean_environment.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    clean_environment.setenv("VIGIE_KAFKA_TIMEOUT", "1s")
    status, said = run([str(save(made(5), tmp_path / "h.parquet"))], capsys)
    assert status == 2
    assert said.splitlines()[-1].startswith(f"replay: no Kafka at {servers}")


def test_ctrl_c_ends_it(tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    clean_environment.setattr(replay, "publish", interrupted)
    assert replay.main([str(save(made(50), tmp_path / "h.parquet"))]) == 130


def test_frauds_need_not_be_marked(mock: Settings, tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("KAFKA_BOOTSTRAP_SERVERS", mock.bootstrap)
    clean_environment.setenv("VIGIE_CREATE_TOPICS", "false")
    data = save(made(50), tmp_path / "h.parquet")
    pl.read_parquet(data).drop("is_fraud", "labelled_at", "fraud_scenario").write_parquet(data)
    assert replay.main([str(data)]) == 0
