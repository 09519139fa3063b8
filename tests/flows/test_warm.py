"""A flow that starts with a past, on a real Kafka: it neither skips nor repeats, and its windows are full."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from features.definitions import FEATURES, reach
from features.transaction import Label, Transaction
from flows import handover, store, topics
from flows.local_kafka import LocalKafka
from flows.settings import Settings
from flows.warm import main
from tests.features.live import frame
from tests.flows.running import QUIET, ROOT, SLOW_READER, SMALL_BATCHES, SMALL_FETCHES, Flow, Received, running
from tests.flows.traffic import (
    DAY,
    Sent,
    expected_features,
    feature_bits,
    history,
    label_message,
    transaction_message,
)

N = 1200
Past = tuple[list[Transaction], list[Label]]


@pytest.fixture(scope="module")
def whole() -> Past:
    return history(N)


@pytest.fixture(scope="module")
def expected(whole: Past) -> dict[str, list[str]]:
    return expected_features(*whole)


def export(folder: Path, transactions: list[Transaction], labels: list[Label]) -> str:
    """The history's file."""
    file = folder / "history.parquet"
    frame([*transactions, *labels]).with_columns(pl.col("amount") / 100).write_parquet(file)
    return str(file)


# Twenty batches a second, so that there is time to stop it on the way.
SLOWLY = (
    "import sys, time, flows.warming as w; taken = w.islice; "
    "w.islice = lambda events, _: (time.sleep(0.05), taken(events, 100))[1]; "
    "from flows.warm import main; sys.exit(main())"
)


def start_warming(flow: Flow, *words: str, slowly: bool = False) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "VIGIE_"))}
    return subprocess.Popen(
        [sys.executable, *(["-c", SLOWLY] if slowly else ["-m", "flows.warm"]), *words],
        cwd=ROOT,
        env=inherited | flow.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def warm(flow: Flow, *words: str) -> tuple[int, str, str]:
    """Status, output and errors of the command."""
    process = start_warming(flow, *words)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def ids(records: list[Received]) -> Counter[str]:
    return Counter(record.json["transaction_id"] for record in records)


def check_once(flow: Flow, wanted: set[str], expected: dict[str, list[str]]) -> list[Received]:
    """Everything wanted was scored once, with the features of the batch, and its alerts are there once."""
    scored, alerts = flow.read_rest("scored"), flow.read_rest("alerts")
    assert ids(scored) == Counter(wanted)
    assert ids(alerts) == Counter(r.json["transaction_id"] for r in scored if r.json["alert"])
    for record in [*scored, *alerts]:
        assert feature_bits(record.json) == expected[record.json["transaction_id"]], record.json["transaction_id"]
    return scored


def test_from_a_history_that_overlaps_with_the_topic(
    kafka: LocalKafka, tmp_path: Path, whole: Past, expected: dict[str, list[str]]
) -> None:
    transactions, labels = whole
    past, new = transactions[:900], transactions[900:]
    overlap = past[870:]
    rng = random.Random(3)
    rng.shuffle(overlap)
    # Around the seam both in mixed order; what is new keeps its own, or else it would not know what came before it.
    seam: list[Transaction | None] = [*new[:30]]
    for old in overlap[15:]:
        seam.insert(rng.randrange(20), old)
    lost = Transaction("never-exported", "a1", "m1", 100, past[-1].timestamp - DAY - 1)
    seam.insert(5, None)
    topic = [*overlap[:15], *seam, lost, None, *new[30:]]
    garbage = [Sent(f"a{n}", b"garbage %d" % n) for n in range(2)]
    with running(kafka.bootstrap_servers, tmp_path, {}) as flow:
        flow.with_recovery()
        waiting = iter(garbage)
        flow.produce("transactions", [transaction_message(t) if t else next(waiting) for t in topic])
        flow.produce("labels", map(label_message, labels))
        status, out, err = warm(flow, export(tmp_path, past, labels))
        assert status == 0, err
        assert f"{len(overlap)} records of {flow.topics['transactions']} are part of the history" in out
        assert f"{len(new) + 3:,} are not" in out
        assert "\n- 1 that are not are older than" in out
        assert f"next: just score -r {tmp_path / 'recovery'}" in out
        flow.start()
        flow.read_all("scored", len(new))
        assert flow.stop() == 0
        check_once(flow, {t.transaction_id for t in new}, expected)
        rejected = flow.read_rest("rejected")
        assert Counter(r.headers["error_code"] for r in rejected) == {"not_json": 2, "too_late": 1}
        # And once more, as after any stop.
        flow.start()
        flow.produce("transactions", [Sent("k", b"{")])
        flow.read_all("rejected", 4)
        assert flow.stop() == 0
        check_once(flow, {t.transaction_id for t in new}, expected)


def test_a_history_that_the_flow_could_not_tell_from_the_topic_is_refused(
    kafka: LocalKafka, tmp_path: Path, whole: Past
) -> None:
    transactions, labels = whole
    past = transactions[:300]
    with running(kafka.bootstrap_servers, tmp_path, {"BYTEWAX_RECOVERY_DIRECTORY": str(tmp_path / "r")}) as flow:
        file = export(tmp_path, past, labels)
        flow.produce("transactions", [Sent(f"a{n}", b"garbage") for n in range(40)])
        flow.produce("transactions", map(transaction_message, past))
        status, _, err = warm(flow, file)
        assert status == 2
        assert "are in the history, but lie after records that are not" in err
        assert "VIGIE_DUPLICATE_HORIZON=" in err
        assert not (tmp_path / "r").exists()
        flow.environment["VIGIE_DUPLICATE_HORIZON"] = "30d"
        assert warm(flow, file)[0] == 0
        status, _, err = warm(flow, file)
        assert status == 2
        assert "holds states already" in err
        ahead = [Transaction("ahead", "a", "m", 1, past[-1].timestamp + 10_000 * DAY)]
        status, _, err = warm(flow, export(tmp_path, [*past, *ahead], labels))
        assert status == 2
        assert "everything that comes would be too_late" in err


def test_a_store_that_was_not_filled_to_the_end_is_refused_and_filled_again(kafka: LocalKafka, tmp_path: Path) -> None:
    transactions, labels = history(15_000, seed=2)
    with running(kafka.bootstrap_servers, tmp_path, {}) as flow:
        flow.with_recovery()
        file = export(tmp_path, transactions, labels)
        identity = tmp_path / "recovery" / store.IDENTITY
        for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
            began = time.time()
            process = start_warming(flow, file, slowly=True)
            give_up = time.monotonic() + 30
            while not identity.exists() or identity.stat().st_mtime < began:
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.005)
            time.sleep(0.3)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
            assert process.returncode == status
            assert ("run this again" in err) is (number == signal.SIGINT)
        flow.start()
        assert flow.ended() == 1
        assert "was to be filled by `just warm`" in flow.console_text()
        done, out, err = warm(flow, file)
        assert done == 0, err
        assert "40 accounts and 25 merchants know" in out


def run_on(flow: Flow, records: int) -> None:
    """Until so many records are committed to the flow's group; then it is killed."""
    settings = Settings.from_environment(flow.environment)
    topic = flow.topics["transactions"]
    give_up = time.monotonic() + 60
    while sum(handover.committed(settings).offsets.get((topic, n), 0) for n in range(3)) < records:
        flow.check_alive()
        assert time.monotonic() < give_up
        time.sleep(0.1)
    flow.kill()


def test_a_lost_store_is_filled_again(kafka: LocalKafka, tmp_path: Path) -> None:
    """First from a history and the topics after it, as where a model of other features needs a new store; then from
    the topics alone."""
    transactions, labels = history(4 * N, seed=4)  # enough to be met in the middle of its work, and after two epochs
    expected = expected_features(transactions, labels)
    past = transactions[: N // 5]
    with running(kafka.bootstrap_servers, tmp_path, SMALL_FETCHES) as flow:
        flow.with_recovery()
        flow.changes = SLOW_READER.replace("sleep(0.1)", "sleep(0.25)")
        settings = Settings.from_environment(flow.environment)
        garbage = [Sent(f"a{n}", b"garbage %d" % n) for n in range(10)]
        flow.produce("transactions", map(transaction_message, transactions), **SMALL_BATCHES)
        flow.produce("transactions", garbage)
        flow.produce("labels", [*map(label_message, labels), Sent("m", b"no label")])
        assert handover.committed(settings) == handover.Committed({}, None)
        began = time.time()
        flow.start()
        run_on(flow, N // 3)
        found = handover.committed(settings)
        assert found.at is not None
        assert began < found.at / 1e6 < time.time()
        shutil.rmtree(tmp_path / "recovery")
        flow.start()
        assert flow.ended() == 1
        assert "has already scored up to" in flow.console_text()
        assert "just warm --from-topics -r" in flow.console_text()
        status, _, err = warm(flow, export(tmp_path, transactions, labels))
        assert status == 2
        assert "has not scored yet" in err
        status, out, err = warm(flow, export(tmp_path, past, labels))
        assert status == 0, err
        assert "has scored" in out

        flow.start()
        run_on(flow, N + N // 4)
        written = flow.read_rest("scored")
        found = handover.committed(settings)
        position = sum(offset for (of, _), offset in found.offsets.items() if of == flow.topics["transactions"])
        assert position < len(written) + len(garbage), "commits lag"
        assert len(written) < len(transactions)
        shutil.rmtree(tmp_path / "recovery")
        status, out, err = warm(flow, "--from-topics")
        assert status == 0, err
        assert "covers" not in out, "the topics have all of it"
        begins = json.loads((tmp_path / "recovery" / store.IDENTITY).read_text())["outputs_begin"]
        passed = sum(r.offset < begins[flow.topics["scored"]][r.partition] for r in written)
        assert passed <= position, "what is written of what lies beyond is looked for"
        assert passed > position / 2, "but not what is done with"

        flow.changes = ""
        flow.start()
        flow.read_all("scored", len(transactions))
        flow.read_all("rejected", len(garbage) + 1)
        assert flow.stop() == 0
        check_once(flow, set(expected), expected)
        rejected = Counter(r.value for r in flow.read_rest("rejected"))
        assert rejected == Counter([*(sent.value for sent in garbage), b"no label"])


def test_up_to_the_end_or_a_time_nothing_is_scored_and_after_it_everything(
    kafka: LocalKafka, tmp_path: Path, whole: Past, expected: dict[str, list[str]]
) -> None:
    transactions, labels = whole
    with running(kafka.bootstrap_servers, tmp_path, {}) as flow:
        marked = Producer({"bootstrap.servers": kafka.bootstrap_servers, **QUIET, "transactional.id": str(tmp_path)})
        marked.init_transactions(30)
        marked.begin_transaction()
        for key, value in map(transaction_message, transactions[:800]):
            marked.produce(flow.topics["transactions"], value, key)
        marked.commit_transaction(30)  # whose marks end each partition
        marked.close()
        flow.produce("labels", map(label_message, labels))
        store_of = {until: str(tmp_path / until[:4]) for until in ("committed", "end", "2100-01-01T00:00:00Z")}
        assert warm(flow, "--from-topics", "-r", store_of["committed"])[0] == 2
        assert warm(flow, "--from-topics", "-r", store_of["committed"], "--until", "yesterday")[0] == 2
        outputs = []
        for until in ("end", "2100-01-01T00:00:00Z"):
            status, out, err = warm(flow, "--from-topics", "--until", until, "-r", store_of[until])
            assert status == 0, err
            assert "40 accounts and 25 merchants know 800 transactions" in out
            outputs.append(out.splitlines()[-3])
        assert outputs[0] == outputs[1], "where the flow begins"
        flow.produce("transactions", map(transaction_message, transactions[800:]))
        flow.environment |= {
            "BYTEWAX_RECOVERY_DIRECTORY": store_of["end"],
            "BYTEWAX_SNAPSHOT_INTERVAL": "1",
            "BYTEWAX_RECOVERY_BACKUP_INTERVAL": "0",
        }
        flow.start()
        flow.read_all("scored", N - 800)
        assert flow.stop() == 0
        check_once(flow, {t.transaction_id for t in transactions[800:]}, expected)


def test_a_past_cut_short_by_retention_is_said_in_numbers(kafka: LocalKafka, tmp_path: Path, whole: Past) -> None:
    with running(kafka.bootstrap_servers, tmp_path, {}) as flow:
        flow.produce("transactions", map(transaction_message, whole[0]))
        settings = Settings.from_environment(flow.environment)
        topic = flow.topics["transactions"]
        delete_until(kafka, topic, [end // 2 for end in topics.ends(settings, [topic])[topic]])
        status, out, err = warm(flow, "--from-topics", "--until", "end", "-r", str(tmp_path / "r"))
        assert status == 0, err
        assert "has lost its beginning" in out
        assert f"windows reach {(reach(FEATURES) + settings.allowed_lateness).days} days" in out


def delete_until(kafka: LocalKafka, topic: str, offsets: list[int]) -> None:
    """As retention does."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    wanted = [TopicPartition(topic, number, offset) for number, offset in enumerate(offsets)]
    for future in admin.delete_records(wanted).values():
        future.result(timeout=30)


@pytest.mark.parametrize("words", [[], ["h.csv", "--from-topics"], ["h.csv", "--until", "end"]])
def test_one_past_at_a_time(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "-r", "recovery"])
    assert "give either a history, or --from-topics" in capsys.readouterr().err


def test_a_store_needs_the_model_whose_features_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIGIE_MODEL", str(tmp_path))
    monkeypatch.setenv("VIGIE_LOG_DIRECTORY", str(tmp_path / "logs"))
    monkeypatch.setattr("flows.logs.set_up", lambda *_: None)
    assert main(["h.csv", "-r", str(tmp_path / "r")]) == 2
    assert "no model bundle at" in capsys.readouterr().err
