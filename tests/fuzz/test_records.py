"""Whatever comes in, comes out: scored, rejected with a code that is documented, or known to be a duplicate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from features import bundle
from features.definitions import FEATURES
from features.errors import InvalidRecord
from features.transaction import ERROR_CODES, Label, Transaction, microseconds, parse_label, parse_transaction
from flows.local_kafka import LocalKafka
from flows.messages import Messages
from flows.model import Model
from flows.records import AlertMessage, Candidates, Decisions, Rejection, ScoredMessage, Transactions
from flows.settings import Settings
from flows.tail import END, identity
from tests.flows import bundles
from tests.flows.running import running
from tests.flows.test_windows import Steps, steps_of
from tests.fuzz.ledger import LATEST, judged
from tests.fuzz.records import fuzzed
from tests.fuzz.stream import through

SETTINGS = Settings.from_environment({})
DEEP = '{"transaction_id":"t","account_id":"a","merchant_id":"m","amount":1,"timestamp":"2018-04-01T00:00:31Z",%s}'


def test_records_are_the_same_for_a_seed_and_have_everything_wrong_with_them() -> None:
    records = list(islice(fuzzed(1), 1000))
    assert records == list(islice(fuzzed(1), 1000))
    assert records != list(islice(fuzzed(2), 1000))
    codes = Counter(record.code for record in judged(fuzzed(1), 10_000))
    # What is too late shows in the order of the records only.
    assert codes.keys() == ERROR_CODES.keys() - {"too_late"} | {None}
    assert 0.3 < codes[None] / 10_000 < 0.7


def outcome(purpose: str, value: bytes | None) -> Transaction | Label | str:
    """What is in the value, or the code of what is wrong with it."""
    try:
        return parse_transaction(value, LATEST) if purpose == "transactions" else parse_label(value, LATEST)
    except InvalidRecord as invalid:
        str(invalid).encode()  # goes into a header
        return invalid.code


def test_every_record_parses_or_has_a_code() -> None:
    for record in islice(fuzzed(3), 50_000):
        found = outcome(record.purpose, record.value)
        if isinstance(found, str):
            assert found in ERROR_CODES
        else:
            assert 0 <= found.timestamp <= LATEST
            assert all(0 < len(i) <= 64 for i in (found.transaction_id, found.account_id, found.merchant_id))


def test_nesting_about_as_deep_as_python_goes_parses_or_has_a_code() -> None:
    for depth in range(900, 1100, 3):
        for begin, end in (("[", "]"), ('{"a":', "}")):
            for field in ("other", "amount", "location", "timestamp"):
                found = outcome("transactions", (DEEP % f'"{field}":{begin * depth}0{end * depth}').encode())
                assert isinstance(found, Transaction) or found in ERROR_CODES


def test_what_parses_survives_the_whole_path(tmp_path: Path) -> None:
    """The steps of the flow one after the other, without the engine, and a restart of all states now and then."""
    model = Model(bundle.load(bundles.make(tmp_path)))
    messages = Messages(model, scored_features=True)
    steps = Steps(FEATURES, SETTINGS, tmp_path / "journal")
    ends = Counter[str]()
    for sequence, record in enumerate(judged(fuzzed(4), 12_000)):
        if record.event is None:
            assert record.code is not None
            (outgoing,) = messages.rejected(Rejection(record.key, record.value, {"error_code": record.code}))
            assert (outgoing.key, outgoing.value) == (record.key, record.value)
            ends["rejected"] += 1
            continue
        arrived = steps.arrive(record.event)
        ends["label" if isinstance(record.event, Label) else "duplicate" if not arrived else "there"] += 1
        for transaction, row in steps_of(arrived):
            passes(transaction, model.score(Candidates(Transactions.of([transaction]), row[np.newaxis])), messages)
        if sequence % 4000 == 3999:
            steps.restart(1 + sequence // 4000)
    steps.intake.close()
    assert min(ends[end] for end in ("rejected", "label", "duplicate", "there")) > 50


def passes(transaction: Transaction, decisions: Decisions, messages: Messages) -> None:
    """The messages of a decision say what they should, and are known again by it."""
    assert 0 <= decisions.scores[0] <= 1
    (outgoing,) = messages.scored(replace(decisions, alerts=[True]))
    for value, form in ((outgoing.value, ScoredMessage), (outgoing.alert, AlertMessage)):
        message = msgspec.json.decode(value or b"", type=form)
        ids = message.transaction_id, message.account_id, message.merchant_id
        assert ids == (transaction.transaction_id, transaction.account_id, transaction.merchant_id)
        assert microseconds(message.timestamp) == transaction.timestamp
        assert round(message.amount * 100) == transaction.amount
        one = transaction.account_id.encode() + END + transaction.transaction_id.encode()
        assert identity(value, outgoing.headers) == one
        assert outgoing.key == transaction.account_id.encode()
        # And it could come in again.
        assert parse_transaction(value, LATEST).transaction_id == transaction.transaction_id


def test_every_record_comes_out_of_the_real_flow_across_restarts(kafka: LocalKafka, tmp_path: Path) -> None:
    with running(kafka.bootstrap_servers, tmp_path) as flow:
        flow.with_recovery()
        found = through(flow, 12_000, 5, 3, restart=True)
    assert not found.wrong
    assert found.ends.keys() - {"scored", "duplicate", "label"} == ERROR_CODES.keys()
