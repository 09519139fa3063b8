"""Holds the output topics against the input: nothing lost, nothing twice, nothing else.

It shares nothing with the flow but the parser and the feature definitions. From the input log alone it knows:

- A record that cannot be parsed is rejected, with the parser's code.
- An id that was accepted before in its account is a duplicate, whatever else the record says. (An id whose earlier
  record was rejected as too late was not accepted.)
- A transaction is too late where its timestamp lies more than the allowed lateness before the newest one parsed before
  it in its own partition.
- Any other one is accepted: it is once in ``scored``, with the features that the batch computes (``oracle``) of the
  transactions accepted before it, and once in ``alerts`` where its score reaches the threshold.

This is exact because what a transaction's features depend on is read in one order only: within one partition the order
of reading is that of the log, and every account and, by the way the input is made, every merchant lives in one
partition (the verifier refuses an input where one does not). Labels are another topic; they are sent well before the
transactions that happen at or after their ``labelled_at``, and before that instant they count for nothing. A partition
that is silent for a minute is measured otherwise, and repeats beyond the duplicate horizon are judged otherwise: an
input holds neither.

Outputs are read committed, from the start to the end; offsets are never counted, for transactions leave gaps in them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from features.definitions import FEATURES
from features.errors import InvalidRecord
from features.transaction import Label, Transaction, parse_label, parse_transaction, rfc3339
from tests.chaos import oracle
from tests.chaos.stream import LATENESS
from tests.features.oracle import Floats
from tests.flows.bundles import THRESHOLD, expected_score
from tests.flows.running import Received
from tests.flows.traffic import DAY

HORIZON: Final = 2 * DAY  # the flow's own default
NAMES: Final = [feature.name for feature in FEATURES]
KINDS: Final = (
    "lost",
    "twice",
    "wrong value",
    "wrong features",
    "wrong rejection",
    "unexplained",
    "alert missing",
    "alert without a score",
    "alert twice",
)

Identity = tuple[str, str]  # account_id, transaction_id
Source = tuple[str, int, int]  # topic, partition, offset


class Refusal(NamedTuple):
    """A record that must be in ``rejected``."""

    code: str
    key: bytes | None
    value: bytes | None


@dataclass
class Expected:
    """What must come of the input."""

    records: int = 0
    accepted: dict[Identity, Transaction] = field(default_factory=dict)  # each account's in the order of the log
    refused: dict[Source, Refusal] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    duplicates: int = 0

    @property
    def outputs(self) -> int:
        """How many records ``scored`` and ``rejected`` must hold together."""
        return len(self.accepted) + len(self.refused)

    @cached_property
    def features(self) -> Floats:
        """Float32 [accepted, FEATURES]."""
        return oracle.expected(list(self.accepted.values()), list(self.labels.values()))


@dataclass
class Findings:
    """Violations by kind, with a text for each."""

    violations: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, what: object) -> None:
        """One more."""
        self.violations[kind].append(str(what))

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {kind: len(found) for kind, found in self.violations.items()}

    def total(self) -> int:
        """How many of all kinds."""
        return sum(self.counts().values())


def judge(topic: str, transactions: Sequence[Received], labels_topic: str, labels: Sequence[Received]) -> Expected:
    """What must come of the input; both sequences are in the order of the log, partition by partition."""
    expected = Expected(len(transactions) + len(labels))
    latest = time.time_ns() // 1000
    leads: dict[int, int] = {}
    homes: dict[str, int] = {}
    for record in transactions:
        source = (topic, record.partition, record.offset)
        try:
            transaction = parse_transaction(record.value, latest)
        except InvalidRecord as invalid:
            expected.refused[source] = Refusal(invalid.code, record.key, record.value)
            continue
        for home in (f"account {transaction.account_id}", f"merchant {transaction.merchant_id}"):
            assert homes.setdefault(home, record.partition) == record.partition, f"{home} is in two partitions"
        lead = leads.get(record.partition, 0)
        leads[record.partition] = max(lead, transaction.timestamp)
        identity = (transaction.account_id, transaction.transaction_id)
        if identity in expected.accepted:
            first = expected.accepted[identity]
            assert first.timestamp >= lead - HORIZON, f"{source} repeats what lies beyond the duplicate horizon"
            assert first.merchant_id == transaction.merchant_id, f"{source} repeats an id for another merchant"
            expected.duplicates += 1
        elif transaction.timestamp < lead - LATENESS:
            expected.refused[source] = Refusal("too_late", record.key, record.value)
        else:
            expected.accepted[identity] = transaction
    for record in labels:
        try:
            label = parse_label(record.value, latest)
        except InvalidRecord as invalid:
            source = (labels_topic, record.partition, record.offset)
            expected.refused[source] = Refusal(invalid.code, record.key, record.value)
        else:
            assert expected.labels.setdefault(label.transaction_id, label) == label, f"{label} contradicts another one"
    return expected


def verify(
    expected: Expected, scored: Sequence[Received], alerts: Sequence[Received], rejected: Sequence[Received]
) -> Findings:
    """All that is wrong with the outputs."""
    findings = Findings()
    scores = _check_scored(expected, scored, findings)
    _check_alerts(expected, scores, alerts, findings)
    _check_rejected(expected, rejected, findings)
    _check_features(expected, [*_decoded(scored), *_decoded(alerts)], findings)
    return findings


def _check_scored(expected: Expected, scored: Sequence[Received], findings: Findings) -> dict[Identity, float]:
    """Every accepted transaction once, with its own fields; returns the scores."""
    times: Counter[Identity] = Counter()
    scores: dict[Identity, float] = {}
    for record, message in zip(scored, _decoded(scored), strict=True):
        if (identity := _identity(message)) is None or identity not in expected.accepted:
            findings.add("unexplained", f"scored[{record.partition}] {record.offset}: {record.value!r}")
            continue
        times[identity] += 1
        scores.setdefault(identity, message["score"])
        if wrong := _wrong_fields(expected.accepted[identity], record, message):
            findings.add("wrong value", f"scored {identity}: {wrong}")
    _count(times, "twice", "scored", findings)
    for identity, transaction in expected.accepted.items():
        if identity not in times:
            findings.add("lost", f"{identity} of {rfc3339(transaction.timestamp)}")
    return scores


def _check_alerts(
    expected: Expected, scores: Mapping[Identity, float], alerts: Sequence[Received], findings: Findings
) -> None:
    times: Counter[Identity] = Counter()
    for record, message in zip(alerts, _decoded(alerts), strict=True):
        identity = _identity(message)
        if identity is None or identity not in scores or scores[identity] < THRESHOLD:
            findings.add("alert without a score", f"alerts[{record.partition}] {record.offset}: {record.value!r}")
            continue
        times[identity] += 1
        if wrong := _wrong_fields(expected.accepted[identity], record, message):
            findings.add("wrong value", f"alert {identity}: {wrong}")
    _count(times, "alert twice", "alert", findings)
    for identity, score in scores.items():
        if score >= THRESHOLD and identity not in times:
            findings.add("alert missing", f"{identity} scored {score}")


def _check_rejected(expected: Expected, rejected: Sequence[Received], findings: Findings) -> None:
    times: Counter[Source] = Counter()
    for record in rejected:
        headers = record.headers
        source = (
            headers.get("source_topic", ""),
            int(headers.get("source_partition", -1)),
            int(headers.get("source_offset", -1)),
        )
        refusal = expected.refused.get(source)
        if refusal is None:
            findings.add("unexplained", f"rejected[{record.partition}] {record.offset}: {headers}")
            continue
        times[source] += 1
        found = Refusal(headers.get("error_code", ""), record.key, record.value)
        if found != refusal:
            findings.add("wrong rejection", f"{source}: {found} instead of {refusal}")
    _count(times, "twice", "rejected", findings)
    for source, refusal in expected.refused.items():
        if source not in times:
            findings.add("lost", f"rejection of {source}, {refusal.code}")


def _check_features(expected: Expected, messages: Sequence[dict[str, Any]], findings: Findings) -> None:
    """Every float32 bit of what was scored, and of what alerts say again."""
    places = {identity: place for place, identity in enumerate(expected.accepted)}
    known = [message for message in messages if _identity(message) in places]
    complete = []
    for message in known:
        if list(message.get("features") or ()) == NAMES:
            complete.append(message)
        else:
            findings.add("wrong features", f"{_identity(message)} has other features than {NAMES}")
    if not complete:
        return
    wanted = expected.features[[places[_identity(message) or ("", "")] for message in complete]]
    found = np.array([list(message["features"].values()) for message in complete], np.float64).astype(np.float32)
    differs = _bits(found) != _bits(wanted)
    for row in np.flatnonzero(differs.any(axis=1)).tolist():
        wrong = {NAMES[n]: (float(found[row, n]), float(wanted[row, n])) for n in np.flatnonzero(differs[row])}
        findings.add("wrong features", f"{_identity(complete[row])} {complete[row]['timestamp']}: {wrong}")


def _bits(values: Floats) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The bits; every NaN as the same ones, since a NaN's payload means nothing."""
    return np.where(np.isnan(values), np.float32(np.nan), values).astype(np.float32).view(np.uint32)


def _wrong_fields(transaction: Transaction, record: Received, message: Mapping[str, Any]) -> dict[str, object]:
    score = message.get("score", -1.0)
    right: dict[str, object] = {
        "merchant_id": transaction.merchant_id,
        "amount": transaction.amount / 100,
        "timestamp": rfc3339(transaction.timestamp),
        "alert": score >= THRESHOLD,
    }
    wrong = {name: message.get(name) for name, value in right.items() if message.get(name) != value}
    if abs(score - expected_score(transaction.amount / 100)) > 1e-6:
        wrong["score"] = score
    if record.key != transaction.account_id.encode():
        wrong["key"] = record.key
    return wrong


def _decoded(records: Sequence[Received]) -> list[dict[str, Any]]:
    """The values; an empty one for what is no object of JSON."""
    decoded = []
    for record in records:
        try:
            value = msgspec.json.decode(record.value or b"")
        except msgspec.DecodeError:
            value = {}
        decoded.append(value if isinstance(value, dict) else {})
    return decoded


def _identity(message: Mapping[str, Any]) -> Identity | None:
    account, transaction = message.get("account_id"), message.get("transaction_id")
    return (account, transaction) if isinstance(account, str) and isinstance(transaction, str) else None


def _count(times: Mapping[Any, int], kind: str, what: str, findings: Findings) -> None:
    for identity, n in times.items():
        for _ in range(n - 1):
            findings.add(kind, f"{what} {identity}, {n} times")
