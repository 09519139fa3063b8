"""A flow of two processes as who watches it sees it: its pages, held against its topics and docs/monitoring.md."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from http.client import HTTPConnection
from typing import Final, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from features.definitions import FEATURES, fingerprint
from features.transaction import ERROR_CODES
from flows.local_kafka import LocalKafka, free_port
from flows.metrics import SCORES
from tests.flows.running import ROOT, Flow, Received, running
from tests.flows.traffic import Sent, history, label_message, transaction_message

STALL: Final = 4  # seconds; epochs last one
BROKEN: Final = [Sent("a1", b"{"), Sent("a1", b"[]"), Sent("a1", b"[]")]
N: Final = 400

Labels = frozenset[tuple[str, str]]


class Page(NamedTuple):
    """A page of metrics, and when it was asked for."""

    kinds: dict[str, str]
    samples: dict[tuple[str, Labels], float]
    at: float

    def of(self, name: str) -> dict[Labels, float]:
        """The samples of that name."""
        return {labels: value for (found, labels), value in self.samples.items() if found == name}

    def one(self, name: str, **labels: str) -> float:
        """The sample with these labels; 0 where there is none."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)


class Watched(NamedTuple):
    """What a flow has shown, and what came of it."""

    flow: Flow
    pages: list[Page]  # of each process, when all was done
    first: list[tuple[int, str]]  # what /ready said first
    stalled: list[tuple[int, str]]  # of process 0 while process 1 stands still: /live, /ready
    after: list[tuple[int, str]]  # the same when it goes on
    began: float
    took: float  # seconds from the stop of process 1 to the first no
    topics: dict[str, list[Received]]


def ask(port: int, page: str) -> tuple[int, str] | None:
    """The status and the text of the answer; None while nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionError:
        return None
    finally:
        connection.close()


def until(flow: Flow, port: int, page: str, fits: Callable[[int, str], bool]) -> tuple[int, str]:
    """The first answer that fits."""
    give_up = time.monotonic() + 60
    while True:
        if (answer := ask(port, page)) is not None and fits(*answer):
            return answer
        flow.check_alive()
        assert time.monotonic() < give_up, (page, answer, flow.console_text())
        time.sleep(0.01)


def parsed(text: str) -> Page:
    """The page's samples, and the types of its metrics."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Page(kinds, samples, time.time())


@pytest.fixture(scope="module")
def watched(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    transactions, labels = history(N, days=5)
    sent = [*map(transaction_message, transactions)]
    port = free_port()
    settings = {"VIGIE_HTTP_PORT": str(port), "VIGIE_STALL_TIMEOUT": f"{STALL}s"}
    with running(kafka.bootstrap_servers, tmp_path_factory.mktemp("watched"), settings) as flow:
        flow.with_recovery()
        flow.processes = 2
        began = time.time()
        flow.produce("transactions", [*BROKEN, *sent, *sent[-7:]])
        flow.produce("labels", map(label_message, labels))
        flow.start()
        first = [until(flow, port + i, "/ready", lambda *_: True) for i in range(2)]
        for i in range(2):
            until(flow, port + i, "/ready", lambda status, _: status == 200)
        flow.read_all("scored", N)
        flow.read_all("rejected", len(BROKEN))
        until(flow, port, "/metrics", lambda _, text: list(parsed(text).of("vigie_consumer_lag").values()) == [0.0] * 6)
        pages = [parsed(until(flow, port + i, "/metrics", lambda *_: True)[1]) for i in range(2)]
        second = flow.workers()[1]
        os.kill(second, signal.SIGSTOP)
        stopped = time.monotonic()
        live = until(flow, port, "/live", lambda status, _: status != 200)
        took = time.monotonic() - stopped
        stalled = [live, until(flow, port, "/ready", lambda *_: True)]
        os.kill(second, signal.SIGCONT)
        after = [until(flow, port, page, lambda status, _: status == 200) for page in ("/live", "/ready")]
        assert flow.stop() == 0
        found = {purpose: flow.read_rest(purpose) for purpose in flow.topics}
        yield Watched(flow, pages, first, stalled, after, began, took, found)


def total(watched: Watched, name: str, **labels: str) -> float:
    """The sum over the processes."""
    return sum(page.one(name, **labels) for page in watched.pages)


def test_it_is_ready_when_it_works_and_not_before(watched: Watched) -> None:
    assert all(status == 503 for status, _ in watched.first)
    assert {text for _, text in watched.first} <= {"the engine is not at work yet\n", "the journal is being replayed\n"}
    assert [page.one("vigie_ready") for page in watched.pages] == [1, 1]


def test_a_peer_that_stands_still_is_seen_by_the_others_and_forgotten_when_it_goes_on(watched: Watched) -> None:
    for status, text in watched.stalled:
        assert status == 503
        assert re.fullmatch(r"no epoch has closed for \d s \(VIGIE_STALL_TIMEOUT\)\n", text)
    assert STALL - 2 < watched.took < STALL + 2
    assert watched.after == [(200, "yes\n"), (200, "yes\n")]


def test_counters_are_what_is_in_the_topics(watched: Watched) -> None:
    topics, names = watched.topics, watched.flow.topics
    assert total(watched, "vigie_scored_total") == len(topics["scored"]) == N
    assert total(watched, "vigie_alerts_total") == len(topics["alerts"]) > 0
    assert total(watched, "vigie_duplicates_total") == 7
    for purpose in ("transactions", "labels"):
        assert total(watched, "vigie_read_total", topic=names[purpose]) == len(topics[purpose]) > 0
    codes = Counter(record.headers["error_code"] for record in topics["rejected"])
    assert codes == {"not_json": 1, "not_an_object": 2}
    assert {code: total(watched, "vigie_rejected_total", code=code) for code in ERROR_CODES} == {
        code: codes[code] for code in ERROR_CODES
    }
    assert all(page.one("vigie_scored_total") > 0 for page in watched.pages), "one process did all"


def test_scores_are_in_their_buckets(watched: Watched) -> None:
    scores = [record.json["score"] for record in watched.topics["scored"]]
    in_buckets = Counter(bisect_left(SCORES, score) for score in scores)
    assert len(in_buckets) > 5
    for i, bound in enumerate([*SCORES, math.inf]):
        at_most = sum(n for bucket, n in in_buckets.items() if bucket <= i)
        le = str(bound) if bound < math.inf else "+Inf"
        assert total(watched, "vigie_score_bucket", le=le) == at_most, bound
    assert total(watched, "vigie_score_count") == len(scores)
    assert total(watched, "vigie_score_sum") == pytest.approx(sum(scores))


def test_latency_is_of_every_scored_record_once(watched: Watched) -> None:
    assert total(watched, "vigie_latency_seconds_count") == len(watched.topics["scored"])
    since_sent = watched.pages[-1].at - watched.began
    assert total(watched, "vigie_latency_seconds_bucket", le="0.005") == 0, "the flow was started after they were sent"
    assert total(watched, "vigie_latency_seconds_bucket", le="60.0") == N
    assert 0.1 * N < total(watched, "vigie_latency_seconds_sum") < since_sent * N


def test_nothing_is_left_to_read_and_event_time_is_that_of_the_slowest_partition(watched: Watched) -> None:
    lag = watched.pages[0].of("vigie_consumer_lag")
    places = {(watched.flow.topics[purpose], str(n)) for purpose in ("transactions", "labels") for n in range(3)}
    assert {(dict(labels)["topic"], dict(labels)["partition"]) for labels in lag} == places
    assert set(lag.values()) == {0}
    reached: dict[int, float] = {}
    for record in watched.topics["transactions"]:
        if (record.value or b"").startswith(b'{"'):
            instant = datetime.fromisoformat(record.json["timestamp"]).timestamp()
            reached[record.partition] = max(reached.get(record.partition, 0.0), instant)
    behind = watched.pages[0].at - watched.pages[0].one("vigie_watermark_lag_seconds")
    assert behind == pytest.approx(min(reached.values()), abs=5)
    assert max(reached.values()) - min(reached.values()) > 60, "the slowest partition cannot be told from the others"


def test_gauges_say_what_is_so(watched: Watched) -> None:
    for entity in ("account", "merchant"):
        known = {json.loads(record.value or b"")[f"{entity}_id"] for record in watched.topics["scored"]}
        assert total(watched, "vigie_state_entries", entity=entity) == len(known)
        for page in watched.pages:
            assert page.one("vigie_state_bytes", entity=entity) > 300 * page.one("vigie_state_entries", entity=entity)
    for page in watched.pages:
        assert page.one("vigie_processes") == 2
        assert 0 <= page.one("vigie_epoch_age_seconds") < STALL
        assert page.one("vigie_model_info", version="test-1", fingerprint=fingerprint(FEATURES)) == 1
        created = datetime.fromisoformat("2026-01-01T00:00:00Z").timestamp()
        assert page.one("vigie_model_created_timestamp_seconds") == created
        assert page.one("process_resident_memory_bytes") > 1e7
        assert page.of("python_info")


def rows() -> list[list[str]]:
    """The cells of the table of metrics: name, type, labels, process, meaning."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (`vigie_.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def counted(name: str, kind: str) -> str:
    """The name of the sample that tells whether there is anything."""
    return f"{name}_count" if kind == "histogram" else name


def test_the_documented_metrics_are_the_ones_on_the_pages(watched: Watched) -> None:
    documented = {name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in rows()}
    found = {}
    page = watched.pages[0]
    for name, kind in page.kinds.items():
        if name.startswith("vigie_"):
            labels = [set(dict(labels)) for labels in page.of(counted(name, kind))]
            assert all(each == labels[0] for each in labels)
            found[name] = (kind, labels[0])
    assert found == documented


def test_what_only_process_0_knows_is_not_in_the_others(watched: Watched) -> None:
    for name, kind, _, process, _ in rows():
        in_second = watched.pages[1].of(counted(name.strip("`"), kind))
        assert any(in_second.values()) == (process == "all"), name
        assert process in ("0", "all")
