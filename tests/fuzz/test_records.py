"""Whatever comes in, comes out: scored, rejected with a code that is documented, or known to be a duplicate."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import msgspec

from features import bundle
from features.definitions import FEATURES, Entity
from features.errors import InvalidRecord
from features.fields import END
from features.transaction import ERROR_CODES, Label, Transaction, parse_label, parse_transaction, rfc3339
from flows.local_kafka import LocalKafka
from flows.messages import Messages
from flows.model import Model
from flows.records import AlertMessage, Arrival, Candidate, Rejection, ScoredMessage
from flows.settings import Settings
from flows.sink import KafkaSink
from flows.tail import identity
from flows.windows import AccountLogic, EntityLogic, EntityStep, Gather, MerchantLogic, gather_key
from tests.flows import bundles
from tests.flows.running import running
from tests.fuzz.ledger import LATEST, judged
from tests.fuzz.records import fuzzed
from tests.fuzz.stream import through

SETTINGS = Settings.from_environment({})
DEEP = '{"transaction_id":"t","account_id":"a","merchant_id":"m","amount":1,"timestamp":"2018-04-01T00:00:31Z",%s}'


def test_records_are_the_same_for_a_seed_and_have_everything_wrong_with_them() -> None:
    records = list(islice(fuzzed(1), 10_000))
    assert records == list(islice(fuzzed(1), 10_000))
    assert records != list(islice(fuzzed(2), 10_000))
    codes = Counter(record.code for record in judged(fuzzed(1), 10_000))
    # What is too late shows in the order of the records only.
    assert codes.keys() == ERROR_CODES.keys() - {"too_late"} | {None}
    assert 0.3 < codes[None] / 10_000 < 0.7


def test_every_record_parses_or_has_a_code() -> None:
    codes: Counter[str] = Counter()
    for record in islice(fuzzed(3), 60_000):
        for parse in (parse_transaction, parse_label):
            try:
                event = parse(record.value, LATEST)
            except InvalidRecord as invalid:
                codes[invalid.code] += 1
                str(invalid).encode()  # goes into a header
            else:
                assert 0 <= event.timestamp <= LATEST
                assert all(0 < len(i) <= 64 for i in (event.transaction_id, event.account_id, event.merchant_id))
    assert codes.keys() <= ERROR_CODES.keys()


def test_nesting_about_as_deep_as_python_goes_parses_or_has_a_code() -> None:
    for depth in range(900, 1100):
        for begin, end in (("[", "]"), ('{"a":', "}")):
            for field in ("other", "amount", "location", "timestamp"):
                value = (DEEP % f'"{field}":{begin * depth}0{end * depth}').encode()
                try:
                    parse_transaction(value, LATEST)
                except InvalidRecord as invalid:
                    assert invalid.code in ERROR_CODES


class Path_:
    """The steps of the flow, one after the other, without the engine."""


def test_what_parses_survives_the_whole_path(tmp_path: Path) -> None:
    model = Model(bundle.load(bundles.make(tmp_path)))
    messages = Messages(model, scored_features=True)
    accounts = EntityStep(Entity.ACCOUNT, AccountLogic, FEATURES, SETTINGS)
    merchants = EntityStep(Entity.MERCHANT, MerchantLogic, FEATURES, SETTINGS)
    by_account: dict[str, EntityLogic[object]] = {}
