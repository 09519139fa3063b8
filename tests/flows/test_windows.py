"""The intake and the keyed steps without a dataflow: against the oracle, dealt to any number of workers, restarted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from features.definitions import FEATURES, OF_LABELS, Entity, Feature, reach
from features.transaction import MICROSECOND, Label, Transaction
from flows import journal
from flows.intake import Dealt, Intake, Reading
from flows.journal import NOTHING, Memory
from flows.records import Candidates, ForAccounts, ForMerchants, MerchantRows, Rejection, Rows, Transactions
from flows.settings import Settings
from flows.windows import AccountWindows, MerchantWindows
from tests.features import oracle
from tests.features.histories import History, histories
from tests.features.live import differing
from tests.features.oracle import Record
from tests.flows.running import ROOT
from tests.flows.traffic import Feed, pay

SETTINGS = Settings.from_environment({})
REACH = reach(FEATURES).days
NAMES = [f.name for f in FEATURES]
Scored = tuple[Transaction, Rows]


def duplicates() -> float:
    return REGISTRY.get_sample_value("vigie_duplicates_total") or 0.0


def scored_rows(transactions: Transactions) -> list[Transaction]:
    """As single objects."""
    columns = (getattr(transactions, name) for name in Transaction.__struct_fields__)
    as_lists = (column.tolist() if isinstance(column, np.ndarray) else column for column in columns)
    return [Transaction(*row) for row in zip(*as_lists, strict=True)]


def scored(candidates: Candidates) -> list[Scored]:
    """As single transactions, each with its features."""
    return list(zip(scored_rows(candidates.transactions), candidates.features, strict=True))


class Steps:
    """Intake and keyed steps, with their keys as Bytewax would hold them."""

    def __init__(
        self, features: Sequence[Feature] = FEATURES, settings: Settings = SETTINGS, folder: Path | None = None
    ) -> None:
        self._features, self._settings = features, settings
        self._memory = Memory(folder, reach(features) // MICROSECOND) if folder else None
        self._feed = Feed(settings.allowed_lateness)
        self._begin(Intake(settings, 1, self._memory, NOTHING, 0))

    def arrive(self, *records: Record | Rejection) -> list[Scored | Rejection]:
        """What comes of records that are read one by one."""
        return [found for record in records for found in self.arrive_together(record)]

    def arrive_together(self, *records: Record | Rejection) -> list[Scored | Rejection]:
        """What comes of records that are read in one batch, under one watermark."""
        readings: list[Reading] = []
        watermark = self._feed.watermark
        for record in records:
            reading, _ = self._feed.reading(record)
            readings.append(reading)
        return self._through(self.intake.take(readings, watermark))

    def restart(self, workers: int) -> None:
        """Nothing but the journal goes over into the other processes."""
        position = self.intake.save()
        self.intake.close()
        self._begin(Intake(self._settings, workers, self._memory, position, self._feed.watermark))
        for dealt in self.intake.past():
            assert not self._through(dealt)

    def _begin(self, intake: Intake) -> None:
        self.intake = intake
        self.accounts: dict[str, AccountWindows] = {}
        self.merchants: dict[str, MerchantWindows] = {}

    def _through(self, dealt: Sequence[Rejection | Dealt]) -> list[Scored | Rejection]:
        found: list[Scored | Rejection] = [item for item in dealt if isinstance(item, Rejection)]
        for_accounts: list[ForAccounts | MerchantRows] = []
        for item in dealt:
            if isinstance(item, ForMerchants):
                if item.key not in self.merchants:
                    self.merchants[item.key] = MerchantWindows(self._features)
                for_accounts += self.merchants[item.key].on_batch([item])[0]
            elif isinstance(item, ForAccounts):
                for_accounts.append(item)
        for part in for_accounts:
            if part.key not in self.accounts:
                self.accounts[part.key] = AccountWindows(self._features)
            for candidates in self.accounts[part.key].on_batch([part])[0]:
                found += scored(candidates)
        for logic in self.accounts.values():
            logic.snapshot()  # nothing is pending
        return found


def settings_of(past: History) -> Settings:
    horizon = past.lateness + timedelta(microseconds=10)
    return replace(SETTINGS, allowed_lateness=past.lateness, duplicate_horizon=horizon)


def features_of(past: History) -> list[Feature]:
    # In model order; labels do not go to accounts.
    chosen = [f for f in past.features if f.entity is Entity.MERCHANT or f.aggregate not in OF_LABELS]
    return sorted(chosen, key=lambda f: list(Entity).index(f.entity))


@settings(deadline=None)  # the first one compiles
@given(histories(contradicting=True), st.lists(st.sampled_from([0, 0, 1, 2, 3]), min_size=40))
def test_the_steps_agree_with_the_oracle_whenever_they_are_restarted(past: History, restarts: list[int]) -> None:
    features = features_of(past)
    taken: list[Record] = []
    before = duplicates()
    expected_duplicates = 0
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "sync", lambda _: None)  # no need to wait for the disk so often
        patch.setattr(os, "fdatasync", lambda _: None)
        steps = Steps(features, settings_of(past), Path(folder))
        newest = 0
        for event, workers in zip(past.records, restarts, strict=False):
            if workers:
                steps.restart(workers)
            found = steps.arrive(event)
            if isinstance(event, Label):
                assert found == []
                taken.append(event)
            elif event.timestamp < newest - past.lateness // MICROSECOND:
                # What comes again that late may still be known, or not.
                assert [item.code for item in found if isinstance(item, Rejection)] in (["too_late"], [])
                expected_duplicates += not found
                assert found or event in taken
            elif event in taken:
                assert found == []
                expected_duplicates += 1
            else:
                ((transaction, row),) = (item for item in found if not isinstance(item, Rejection))
                assert transaction == event
                assert not differing(features, row, oracle.values(features, event, taken))
                taken.append(event)
            if isinstance(event, Transaction):
                newest = max(newest, event.timestamp)
        steps.intake.close()
    assert duplicates() - before == expected_duplicates


@given(histories(contradicting=True), st.lists(st.integers(1, 9), min_size=40), st.integers(1, 3))
def test_however_records_are_cut_into_batches_and_dealt_all_is_the_same(
    past: History, cuts: list[int], workers: int
) -> None:
    features, no_limit = (
        features_of(past),
        replace(SETTINGS, allowed_lateness=timedelta(days=400), duplicate_horizon=timedelta(days=400)),
    )
    single, batched = Steps(features, no_limit), Steps(features, no_limit)
    batched._begin(Intake(no_limit, workers, None, NOTHING, 0))
    expected = {t.transaction_id: row for t, row in steps_of(single.arrive(*past.records))}
    found: dict[str, Rows] = {}
    rest = list(past.records)
    for cut in cuts:
        found |= {t.transaction_id: row for t, row in steps_of(batched.arrive_together(*rest[:cut]))}
        del rest[:cut]
    assert not rest
    assert found.keys() == expected.keys()
    for transaction, row in found.items():
        assert not differing(features, row, expected[transaction])


def steps_of(found: Sequence[Scored | Rejection]) -> list[Scored]:
    return [item for item in found if not isinstance(item, Rejection)]


def scored_of(found: Sequence[Scored | Rejection]) -> list[Transaction]:
    return [transaction for transaction, _ in steps_of(found)]


def test_an_id_may_be_used_again_after_the_horizon() -> None:
    payments = [pay("x", day=0), *(pay(f"y{i}", merchant="n", day=4) for i in range(10)), pay("x", day=5)]
    assert scored_of(Steps().arrive(*payments)) == payments


def test_an_id_may_be_used_again_though_nothing_was_forgotten() -> None:
    payments = [pay("x", day=0), pay("y", account="b", merchant="n", day=4), pay("x", day=5), pay("z", day=5.1)]
    found = steps_of(Steps().arrive(*payments))
    assert [transaction for transaction, _ in found] == payments
    assert found[-1][1][NAMES.index("merchant_count_1d")] == 1.0


def test_ids_are_remembered_for_longer_than_windows_reach_where_that_is_set(tmp_path: Path) -> None:
    horizon = REACH + 30
    long = Settings.from_environment({"VIGIE_DUPLICATE_HORIZON": f"{horizon}d"})
    repeats, much_later = [REACH + day for day in (10, 11, 12)], 2 * horizon
    payments = [pay("x", day=0), *(pay("x", day=day) for day in repeats), pay("x", day=much_later)]
    others = [pay(f"y{day}", account="b", merchant="n", day=day) for day in (*repeats, much_later)]
    in_order = sorted([*payments, *others], key=lambda payment: (payment.timestamp, payment.account_id == "a"))
    steps = Steps(settings=long, folder=tmp_path)
    found: list[Scored | Rejection] = []
    for payment in in_order:
        found += steps.arrive(payment)
        steps.restart(1)
    steps.intake.close()
    ids = [transaction.transaction_id for transaction in scored_of(found)]
    assert ids == ["x", *(f"y{day}" for day in (*repeats, much_later)), "x"]


@pytest.mark.parametrize("together", [True, False])
def test_within_the_horizon_the_first_decision_stands(together: bool) -> None:
    payments = [pay("x", day=0), pay("x", day=0.5, amount=99), pay("x", account="b", day=0.6), pay("x", day=0.9)]
    steps = Steps()
    found = steps_of(steps.arrive_together(*payments) if together else steps.arrive(*payments))
    assert [transaction for transaction, _ in found] == [payments[0], payments[2]]
    assert [row[NAMES.index("merchant_count_1d")] for _, row in found] == [0.0, 1.0]


def test_ids_may_hold_anything_and_are_not_confused() -> None:
    pairs = [
        ("c", "a\nb"),
        ("b\nc", "a"),
        ("bc", "a"),
        ("c", "ab"),
        ("", "þ"),
        ("a\x00", "b"),
        ("\x00b", "a"),
        ("é" * 64, "é" * 64),
    ]
    payments = [*(pay(transaction, account=account, day=0) for transaction, account in pairs), pay("last", day=0.5)]
    found = steps_of(Steps().arrive(*payments))
    assert [transaction for transaction, _ in found] == payments
    assert found[-1][1][NAMES.index("merchant_count_1d")] == len(pairs)


def test_a_repeat_for_another_merchant_is_a_duplicate_and_leaves_no_trace() -> None:
    payments = [pay("x", day=0), pay("x", merchant="n", day=0), pay("z", merchant="n", day=0.1)]
    found = steps_of(Steps().arrive(*payments))
    assert [transaction for transaction, _ in found] == [payments[0], payments[2]]
    assert found[-1][1][NAMES.index("merchant_count_1d")] == 0.0


@pytest.mark.parametrize("together", [True, False])
def test_too_late_is_rejected_and_leaves_no_trace(together: bool) -> None:
    steps = Steps()
    steps.arrive(pay("x", day=2))
    later = [pay("late", day=0.9), pay("z", day=2.1), pay("late", day=0.9)]
    found = steps.arrive_together(*later) if together else steps.arrive(*later)
    assert [item.code for item in found if isinstance(item, Rejection)] == ["too_late", "too_late"]
    ((transaction, row),) = steps_of(found)
    assert transaction.transaction_id == "z"
    assert row[NAMES.index("account_count_30d")] == 1.0
    assert row[NAMES.index("merchant_count_30d")] == 1.0


def test_a_label_in_the_middle_of_a_batch_is_known_from_there_on() -> None:
    early, before, after = pay("e", day=0), pay("b", account="b", day=8), pay("c", account="c", day=8)
    label = Label("e", "a", "m", early.timestamp, is_fraud=True, labelled_at=early.timestamp + 1)
    for workers in (1, 2, 3):
        steps = Steps()
        steps._begin(Intake(SETTINGS, workers, None, NOTHING, 0))
        found = steps_of(steps.arrive_together(early, before, pay("o", merchant="n", day=8), label, after))
        counts = {t.transaction_id: row[NAMES.index("merchant_fraud_count_30d_delay_7d")] for t, row in found}
        assert counts == {"e": 0.0, "b": 0.0, "o": 0.0, "c": 1.0}


def test_batches_leave_in_the_order_of_reading_and_only_when_they_are_complete() -> None:
    accounts = AccountWindows(FEATURES)
    width = sum(f.entity is Entity.MERCHANT for f in FEATURES)
    batches = [Transactions.of([pay(f"{n}-{i}", day=n) for i in range(3)]) for n in range(3)]
    for_accounts = [ForAccounts("0", n, transactions, 0, past=False) for n, transactions in enumerate(batches)]

    def part(number: int, *there: int) -> MerchantRows:
        return MerchantRows(
            "0", number, np.array(there), np.full((len(there), width), 10 * number + there[0], np.float32)
        )

    def left(*values: ForAccounts | MerchantRows) -> list[list[str]]:
        return [found.transactions.transaction_id for found in accounts.on_batch(list(values))[0]]

    assert left(part(1, 0, 2), for_accounts[0]) == []
    with pytest.raises(AssertionError):
        accounts.snapshot()
    assert left(for_accounts[1], part(1, 1)) == [], "the first batch is not complete"
    assert left(part(0, 0, 1, 2)) == [["0-0", "0-1", "0-2"], ["1-0", "1-1", "1-2"]]
    accounts.snapshot()
    complete, _ = accounts.on_batch([for_accounts[2], part(2, 2, 0), part(2, 1)])
    (candidates,) = complete
    assert candidates.features[:, -1].tolist() == [22.0, 21.0, 22.0]


def test_idle_entities_are_dropped_and_the_metrics_tell_how_many_are_left() -> None:
    def told(what: str) -> list[float | None]:
        entities = (Entity.ACCOUNT, Entity.MERCHANT)
        return [REGISTRY.get_sample_value(f"vigie_state_{what}", {"entity": entity}) for entity in entities]

    steps = Steps()
    steps.arrive_together(*(pay(f"t{i}", account=f"a{i}", merchant=f"m{i % 20}", day=i / 1000) for i in range(300)))
    assert told("entries") == [300, 20]
    for i in range(3000):
        steps.arrive(pay(f"later{i}", account="b", merchant="n", day=REACH + 3 + i / 1e6))
    assert told("entries") == [1, 1]
    (accounts,), (merchants,) = steps.accounts.values(), steps.merchants.values()
    assert told("bytes") == [accounts._windows.states.nbytes, merchants._windows.states.nbytes]


def test_duplicates_are_counted_once_each() -> None:
    before = duplicates()
    payments = [pay("x", day=0)] * 3 + [pay("y", day=0)] * 2
    assert Counter(scored_of(Steps().arrive_together(*payments))) == Counter(payments[::2][:1] + payments[3:4])
    assert duplicates() - before == 3


ALL_COMPILED = """
from features import compaction, frauds, recent, state
from features.definitions import FEATURES
from flows.windows import make_ready

make_ready(FEATURES)
named = [pair for of in (compaction, frauds, recent, state) for pair in vars(of).items()]
called = {name: each for name, each in named if hasattr(each, "signatures")}
assert {"run", "sweep", "slide", "_look", "_drop", "_split"} <= set(called)
of_others = {"copy_event", "slab_class", "_deal", "_hash", "_page", "_place"}
print(*(name for name, each in called.items() if not each.signatures and name not in of_others))
"""


def test_nothing_is_left_to_be_compiled_while_the_flow_works() -> None:
    """What other compiled code alone calls is compiled with it."""
    done = subprocess.run([sys.executable, "-c", ALL_COMPILED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
