"""The verifier without a broker: right outputs pass, and nothing that is wrong with them escapes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice, pairwise
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from features.definitions import FEATURES
from features.transaction import Transaction, rfc3339
from flows.model import _shortest
from tests.chaos import oracle, verifier
from tests.chaos.stream import LATENESS, Stream
from tests.chaos.verifier import Expected
from tests.features.live import Live
from tests.features.oracle import Floats
from tests.flows.bundles import THRESHOLD, expected_score
from tests.flows.running import Received
from tests.flows.traffic import DAY, Sent, pay, transaction_message

PARTITIONS = 3
N = 2_000


def logged(messages: list[Sent]) -> list[Received]:
    """The messages as they lie in a topic; transactions leave gaps in the offsets."""
    ends = [0] * PARTITIONS
    records = []
    for key, value in messages:
        assert key is not None
        number = crc32(key.encode()) % PARTITIONS
        records.append(Received(key.encode(), value, {}, number, ends[number]))
        ends[number] += 1 + ends[number] % 3
    return sorted(records, key=lambda record: (record.partition, record.offset))


def streamed(expected: Expected) -> Floats:
    """The features as the streaming states compute them, of the accepted transactions in the order of the log."""
    live = Live(FEATURES, timedelta(days=10_000))
    for label in expected.labels.values():
        live.arrive(label)
    found = [live.arrive(transaction) for transaction in expected.accepted.values()]
    return np.array([values for values in found if values is not None])


@dataclass
class Outputs:
    """The three topics."""

    scored: list[Received]
    alerts: list[Received]
    rejected: list[Received]


def message(transaction: Transaction, features: Floats) -> dict[str, Any]:
    score = float(np.float32(expected_score(transaction.amount / 100)))
    return {
        "transaction_id": transaction.transaction_id,
        "account_id": transaction.account_id,
        "merchant_id": transaction.merchant_id,
        "amount": transaction.amount / 100,
        "timestamp": rfc3339(transaction.timestamp),
        "score": score,
        "alert": score >= THRESHOLD,
        "features": {f.name: _shortest(value) for f, value in zip(FEATURES, features, strict=True)},
    }


def right_outputs(expected: Expected, features: Floats) -> Outputs:
    messages = [message(t, row) for t, row in zip(expected.accepted.values(), features, strict=True)]
    records = [Received(m["account_id"].encode(), json.dumps(m).encode(), {}, 0, 2 * n) for n, m in enumerate(messages)]
    rejected = [
        Received(
            refusal.key,
            refusal.value,
            {
                "error_code": refusal.code,
                **dict(zip(("source_topic", "source_partition", "source_offset"), map(str, source), strict=True)),
            },
            1,
            number,
        )
        for number, (source, refusal) in enumerate(expected.refused.items())
    ]
    return Outputs(records, [r for r, m in zip(records, messages, strict=True) if m["alert"]], rejected)


@pytest.fixture(scope="module")
def expected() -> Expected:
    items = list(islice(Stream(5, PARTITIONS, step=DAY / 50, early=DAY, accounts=60), N))
    transactions, labels = (
        logged([item.sent for item in items if item.purpose == purpose]) for purpose in ("transactions", "labels")
    )
    return verifier.judge("transactions", transactions, "labels", labels)


@pytest.fixture(scope="module")
def features(expected: Expected) -> Floats:
    return streamed(expected)


@pytest.fixture(scope="module")
def right(expected: Expected, features: Floats) -> Outputs:
    return right_outputs(expected, features)


@pytest.fixture
def outputs(right: Outputs) -> Outputs:
    """Right ones, to be tampered with."""
    return Outputs(list(right.scored), list(right.alerts), list(right.rejected))


def test_the_stream_holds_all_that_may_go_wrong(expected: Expected) -> None:
    codes = {refusal.code for refusal in expected.refused.values()}
    assert {"too_late", "not_json", "missing_field", "empty_value", "wrong_type", "timestamp_in_future"} <= codes
    assert expected.duplicates > N / 100
    assert len(expected.labels) > N / 20
    instants = [transaction.timestamp for transaction in expected.accepted.values()]
    assert any(later < earlier for earlier, later in pairwise(instants))
    assert any(later == earlier for earlier, later in pairwise(instants))


def test_the_stream_follows_from_its_seed() -> None:
    first, second, other = (list(islice(Stream(seed, 3, DAY / 50, DAY), 500)) for seed in (1, 1, 2))
    assert first == second != other


def test_the_batch_in_worlds_gives_what_the_states_give(expected: Expected, features: Floats) -> None:
    """Nearly half of the rows have something that came after them and happened before them."""
    found = expected.features
    np.testing.assert_array_equal(verifier._bits(found), verifier._bits(features))
    whole = {f.name: n for n, f in enumerate(FEATURES)}["merchant_fraud_count_30d_delay_7d"]
    assert found[:, whole].max() > 1


def test_many_worlds_are_computed_in_portions(
    expected: Expected, features: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "ROWS", 300)
    found = oracle.expected(list(expected.accepted.values()), list(expected.labels.values()))
    np.testing.assert_array_equal(verifier._bits(found), verifier._bits(features))


def test_right_outputs_pass(expected: Expected, outputs: Outputs) -> None:
    assert len(outputs.alerts) > 50
    findings = verifier.verify(expected, outputs.scored, outputs.alerts, outputs.rejected)
    assert not [text for texts in findings.violations.values() for text in texts]
    assert len(outputs.scored) + len(outputs.rejected) == expected.outputs


def changed(record: Received, **fields: object) -> Received:
    return record._replace(value=json.dumps(record.json | fields).encode())


def with_header(record: Received, **headers: str) -> Received:
    return record._replace(headers=record.headers | headers)


def flipped(record: Received) -> Received:
    """One feature by its last bit."""
    features = record.json["features"]
    name = max(features, key=lambda name: features[name] or 0.0)
    other = np.nextafter(np.float32(features[name]), np.float32(np.inf))
    return changed(record, features=features | {name: float(str(other))})


def drop_a_score(outputs: Outputs) -> None:
    outputs.scored.remove(next(record for record in outputs.scored if not record.json["alert"]))


def drop_a_score_with_its_alert(outputs: Outputs) -> None:
    outputs.scored.remove(outputs.alerts.pop(3))


def at(topic: str, change: Callable[[Received], Received], place: int = 7) -> Callable[[Outputs], None]:
    def tamper(outputs: Outputs) -> None:
        records = getattr(outputs, topic)
        records[place] = change(records[place])

    return tamper


def again(topic: str) -> Callable[[Outputs], None]:
    return lambda outputs: getattr(outputs, topic).append(getattr(outputs, topic)[9])


TAMPERINGS: dict[str, tuple[Callable[[Outputs], Any], dict[str, int]]] = {
    "a score is missing": (drop_a_score, {"lost": 1}),
    "an alert is missing": (lambda o: o.alerts.pop(4), {"alert missing": 1}),
    "a rejection is missing": (lambda o: o.rejected.pop(5), {"lost": 1}),
    "a score and its alert are missing": (drop_a_score_with_its_alert, {"lost": 1}),
    "an alert without its score": (
        lambda o: o.scored.remove(o.alerts[3]),
        {"lost": 1, "alert without a score": 1},
    ),
    "a score twice": (again("scored"), {"twice": 1}),
    "an alert twice": (again("alerts"), {"alert twice": 1}),
    "a rejection twice": (again("rejected"), {"twice": 1}),
    "a bit of a feature": (at("scored", flipped), {"wrong features": 1}),
    "a bit of an alert's feature": (at("alerts", flipped), {"wrong features": 1}),
    "a feature is missing": (
        at("scored", lambda r: changed(r, features=dict(list(r.json["features"].items())[1:]))),
        {"wrong features": 1},
    ),
    "no features": (at("scored", lambda r: changed(r, features=None)), {"wrong features": 1}),
    "a score of another amount": (at("scored", lambda r: changed(r, score=0.499)), {"wrong value": 1}),
    "another amount": (at("scored", lambda r: changed(r, amount=r.json["amount"] + 10)), {"wrong value": 1}),
    "another merchant": (at("scored", lambda r: changed(r, merchant_id="m-1")), {"wrong value": 1}),
    "another time": (at("scored", lambda r: changed(r, timestamp="2018-04-01T00:00:00Z")), {"wrong value": 1}),
    "another key": (at("scored", lambda r: r._replace(key=b"a-1")), {"wrong value": 1}),
    "another word on the alert": (
        at("scored", lambda r: changed(r, alert=not r.json["alert"])),
        {"wrong value": 1},
    ),
    "an alert below the threshold": (
        lambda o: o.alerts.append(next(r for r in o.scored if not r.json["alert"])),
        {"alert without a score": 1},
    ),
    "a score of nothing": (
        lambda o: o.scored.append(changed(o.scored[0], transaction_id="t-1")),
        {"unexplained": 1},
    ),
    "a score that is no JSON": (lambda o: o.scored.append(o.rejected[0]), {"unexplained": 1}),
    "a rejection of nothing": (
        lambda o: o.rejected.append(with_header(o.rejected[0], source_offset="999999")),
        {"unexplained": 1},
    ),
    "a rejection of no source": (
        lambda o: o.rejected.append(o.rejected[0]._replace(headers={})),
        {"unexplained": 1},
    ),
    "another code": (at("rejected", lambda r: with_header(r, error_code="x")), {"wrong rejection": 1}),
    "other bytes": (at("rejected", lambda r: r._replace(value=b"x")), {"wrong rejection": 1}),
    "the key of another record": (at("rejected", lambda r: r._replace(key=b"x")), {"wrong rejection": 1}),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_is_wrong_is_found(name: str, expected: Expected, outputs: Outputs) -> None:
    tamper, kinds = TAMPERINGS[name]
    tamper(outputs)
    findings = verifier.verify(expected, outputs.scored, outputs.alerts, outputs.rejected)
    assert {kind: count for kind, count in findings.counts().items() if count} == kinds, findings


def test_every_kind_of_violation_has_a_tampering_that_shows_it() -> None:
    assert {kind for _, kinds in TAMPERINGS.values() for kind in kinds} == set(verifier.KINDS)


def judged(*transactions: Transaction | bytes) -> Expected:
    """What must come of these, all in one partition."""
    values = [t if isinstance(t, bytes) else transaction_message(t).value for t in transactions]
    records = [Received(b"a", value, {}, 0, offset) for offset, value in enumerate(values)]
    return verifier.judge("transactions", records, "labels", [])


def codes(expected: Expected) -> list[tuple[int, str]]:
    return [(offset, refusal.code) for (_, _, offset), refusal in expected.refused.items()]


def test_lateness_is_exact_to_the_microsecond() -> None:
    newest = pay("1", day=10)
    limit = newest.timestamp - LATENESS
    just, late = (Transaction(f"{t}", "a", "m", 100, t) for t in (limit, limit - 1))
    expected = judged(newest, just, late)
    assert list(expected.accepted) == [("a", "1"), ("a", f"{limit}")]
    assert codes(expected) == [(2, "too_late")]


def test_a_repeat_is_a_duplicate_before_it_is_late_and_after_it_was_late_it_is_late_again() -> None:
    early, late = pay("early", day=9.1), pay("late", day=8.9)
    expected = judged(early, pay("x", day=10), late, late, pay("y", day=10.5), early)
    assert codes(expected) == [(2, "too_late"), (3, "too_late")]
    assert expected.duplicates == 1
    assert len(expected.accepted) == 3


def test_what_cannot_be_parsed_moves_no_time_forward() -> None:
    expected = judged(pay("1", day=10), b'{"timestamp": "2019-01-01T00:00:00Z"}', pay("2", day=10))
    assert codes(expected) == [(1, "missing_field")]
    assert len(expected.accepted) == 2


def test_an_input_that_has_no_exact_answer_is_refused() -> None:
    first, later = pay("1", day=1), pay("2", day=3.5)
    with pytest.raises(AssertionError, match="beyond the duplicate horizon"):
        judged(first, later, first)
    with pytest.raises(AssertionError, match="for another merchant"):
        judged(first, pay("1", day=1, merchant="n"))
    apart = [
        Received(b"", transaction_message(t).value, {}, number, 0)
        for number, t in enumerate([first, pay("2", day=1, account="b")])
    ]
    with pytest.raises(AssertionError, match="merchant m is in two partitions"):
        verifier.judge("transactions", apart, "labels", [])
