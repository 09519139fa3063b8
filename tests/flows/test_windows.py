"""The keyed steps without a dataflow: against the oracle, and restarted anywhere."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from features.definitions import FEATURES, OF_LABELS, Entity, Feature, reach
from features.transaction import Label, Transaction
from flows.records import AccountPart, Arrival, Candidate, MerchantPart, Rejection, Tick
from flows.settings import Settings
from flows.windows import GATHER_KEYS, AccountLogic, EntityLogic, EntityStep, Gather, MerchantLogic, Saved, gather_key
from tests.features import oracle
from tests.features.histories import MONDAY, History, histories
from tests.features.live import differing
from tests.features.oracle import Record
from tests.flows.traffic import TOO_LATE, arrivals, pay

SETTINGS = Settings.from_environment({})
REACH = reach(FEATURES).days


def duplicates() -> float:
    return REGISTRY.get_sample_value("vigie_duplicates_total") or 0.0


class Steps:
    """The three keyed steps, with their keys as Bytewax would hold them."""

    def __init__(self, features: Sequence[Feature], settings: Settings) -> None:
        self._make: Callable[[], tuple[EntityStep[AccountPart], EntityStep[MerchantPart]]] = lambda: (
            EntityStep(Entity.ACCOUNT, AccountLogic, features, settings),
            EntityStep(Entity.MERCHANT, MerchantLogic, features, settings),
        )
        self.accounts, self.merchants = self._make()
        self.logics: dict[tuple[Entity, str], EntityLogic[AccountPart] | EntityLogic[MerchantPart]] = {}
        self.gather = Gather(None)

    def arrive(self, arrival: Arrival) -> list[Candidate | Rejection]:
        parts: list[AccountPart | MerchantPart] = []
        if isinstance(arrival.event, Transaction):
            parts += self._step(Entity.ACCOUNT, self.accounts, arrival)
        parts += self._step(Entity.MERCHANT, self.merchants, arrival)
        complete, _ = self.gather.on_batch(parts)
        return list(complete)

    def restart(self) -> None:
        """All state goes through a pickle into steps of a new process."""
        self.gather.snapshot()
        saved = {key: pickle.dumps(logic.snapshot()) for key, logic in self.logics.items()}
        self.accounts, self.merchants = self._make()
        self.logics = {key: self._build(key[0], pickle.loads(state)) for key, state in saved.items()}

    def _step(
        self, entity: Entity, step: EntityStep[AccountPart] | EntityStep[MerchantPart], arrival: Arrival
    ) -> Iterable[AccountPart | MerchantPart]:
        key = (entity, step.key(arrival.event))
        if key not in self.logics:
            self.logics[key] = self._build(entity, None)
        parts, done = self.logics[key].on_batch([arrival])
        if done:
            del self.logics[key]
        return parts

    def _build(self, entity: Entity, saved: Saved | None) -> EntityLogic[AccountPart] | EntityLogic[MerchantPart]:
        return self.accounts(saved) if entity is Entity.ACCOUNT else self.merchants(saved)


def settings_of(past: History) -> Settings:
    horizon = past.lateness + timedelta(microseconds=10)
    return replace(SETTINGS, allowed_lateness=past.lateness, duplicate_horizon=horizon)


def features_of(past: History) -> list[Feature]:
    # In model order; labels do not go to accounts.
    chosen = [f for f in past.features if f.entity is Entity.MERCHANT or f.aggregate not in OF_LABELS]
    return sorted(chosen, key=lambda f: list(Entity).index(f.entity))


@given(histories(contradicting=True), st.lists(st.sampled_from([True, False, False]), min_size=40))
def test_the_steps_agree_with_the_oracle_whenever_they_are_restarted(past: History, restarts: list[bool]) -> None:
    features = features_of(past)
    steps = Steps(features, settings_of(past))
    taken: list[Record] = []
    before = duplicates()
    expected_duplicates = 0
    for arrival, restart in zip(arrivals(past.records, past.lateness), restarts, strict=False):
        if restart:
            steps.restart()
        found = steps.arrive(arrival)
        event = arrival.event
        if isinstance(event, Label):
            assert found == []
            taken.append(event)
        elif event in taken and not arrival.too_late:
            assert found == []
            expected_duplicates += 1
        elif arrival.too_late:
            # What comes again that late may still be known, or not.
            assert found in ([TOO_LATE], [])
            expected_duplicates += not found
            assert found or event in taken
        else:
            (candidate,) = found
            assert isinstance(candidate, Candidate)
            assert candidate.transaction == event
            row = np.array(candidate.features, np.float32)
            assert not differing(features, row, oracle.values(features, event, taken))
            taken.append(event)
    assert duplicates() - before == expected_duplicates


def test_an_id_may_be_used_again_after_the_horizon() -> None:
    """Whatever each side has forgotten by then: the account has been busy since, the merchant has not."""
    payments = [pay("x", day=0), *(pay(f"y{i}", merchant="n", day=4) for i in range(10)), pay("x", day=5)]
    steps = Steps(FEATURES, SETTINGS)
    found = [item for arrival in arrivals(payments, timedelta(days=1)) for item in steps.arrive(arrival)]
    assert [item.transaction for item in found if isinstance(item, Candidate)] == payments


def test_an_id_may_be_used_again_though_nothing_was_forgotten() -> None:
    payments = [pay("x", day=0), pay("y", account="b", merchant="n", day=4), pay("x", day=5), pay("z", day=5.1)]
    steps = Steps(FEATURES, SETTINGS)
    found = [item for arrival in arrivals(payments, timedelta(days=1)) for item in steps.arrive(arrival)]
    candidates = [item for item in found if isinstance(item, Candidate)]
    assert [candidate.transaction for candidate in candidates] == payments
    assert candidates[-1].features[[f.name for f in FEATURES].index("merchant_count_1d")] == 1.0


def test_ids_are_remembered_for_longer_than_windows_reach_where_that_is_set() -> None:
    horizon = REACH + 30
    long = Settings.from_environment({"VIGIE_DUPLICATE_HORIZON": f"{horizon}d"})
    repeats, much_later = [REACH + day for day in (10, 11, 12)], 2 * horizon
    payments = [pay("x", day=0), *(pay("x", day=day) for day in repeats), pay("x", day=much_later)]
    others = [pay(f"y{day}", account="b", merchant="n", day=day) for day in (*repeats, much_later)]
    in_order = sorted([*payments, *others], key=lambda payment: (payment.timestamp, payment.account_id == "a"))
    steps = Steps(FEATURES, long)
    found = [item for arrival in arrivals(in_order, timedelta(days=1)) for item in steps.arrive(arrival)]
    ids = [item.transaction.transaction_id for item in found if isinstance(item, Candidate)]
    assert ids == ["x", *(f"y{day}" for day in (*repeats, much_later)), "x"]


def test_within_the_horizon_the_first_decision_stands() -> None:
    payments = [pay("x", day=0), pay("x", day=0.5, amount=99), pay("x", account="b", day=0.6), pay("x", day=1.9)]
    steps = Steps(FEATURES, SETTINGS)
    found = [item for arrival in arrivals(payments, timedelta(days=1)) for item in steps.arrive(arrival)]
    assert [item.transaction for item in found if isinstance(item, Candidate)] == [payments[0], payments[2]]
    merchant_count = [f.name for f in FEATURES].index("merchant_count_1d")
    assert [item.features[merchant_count] for item in found if isinstance(item, Candidate)] == [0.0, 1.0]


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
    steps = Steps(FEATURES, SETTINGS)
    found = [item for arrival in arrivals(payments, timedelta(days=1)) for item in steps.arrive(arrival)]
    candidates = [item for item in found if isinstance(item, Candidate)]
    assert [candidate.transaction for candidate in candidates] == payments
    assert candidates[-1].features[[f.name for f in FEATURES].index("merchant_count_1d")] == len(pairs)


def test_a_repeat_for_another_merchant_is_a_duplicate_and_stops_nothing() -> None:
    payments = [pay("x", day=0), pay("x", merchant="n", day=0), pay("x", merchant="n", day=0), pay("z", day=0.1)]
    steps = Steps(FEATURES, SETTINGS)
    found = [item for arrival in arrivals(payments, timedelta(days=1)) for item in steps.arrive(arrival)]
    assert [item.transaction for item in found if isinstance(item, Candidate)] == [payments[0], payments[3]]


def test_too_late_is_rejected_and_leaves_no_trace() -> None:
    payments = [pay("x", day=2), pay("late", day=0.9), pay("z", day=2.1)]
    steps = Steps(FEATURES, SETTINGS)
    found = [item for arrival in arrivals(payments, timedelta(days=1)) for item in steps.arrive(arrival)]
    assert found[1] == TOO_LATE
    (counts,) = [item.features for item in found[2:] if isinstance(item, Candidate)]
    names = [f.name for f in FEATURES]
    assert counts[names.index("account_count_30d")] == 1.0
    assert counts[names.index("merchant_count_30d")] == 1.0


def test_a_snapshot_does_not_change_with_the_state_it_was_taken_of() -> None:
    step = EntityStep(Entity.ACCOUNT, AccountLogic, FEATURES, SETTINGS)
    logic = step(None)
    logic.on_batch([Arrival(0, pay("x", day=0), 0, None)])
    saved = logic.snapshot()
    as_bytes = pickle.dumps(saved)
    logic.on_batch([Arrival(1, pay("y", day=0.5), 0, None), Arrival(2, pay("z", day=0.6), 0, None)])
    assert pickle.dumps(saved) == as_bytes
    assert saved.key == "a"


def test_a_key_in_use_keeps_no_more_than_its_windows_reach() -> None:
    def size_after(days: int) -> int:
        payments = [pay(f"t{number:09d}", day=number / 10) for number in range(days * 10)]
        steps = Steps(FEATURES, SETTINGS)
        for arrival in arrivals(payments, timedelta(days=1)):
            steps.arrive(arrival)
        return sum(len(pickle.dumps(logic.snapshot())) for logic in steps.logics.values())

    assert size_after(2 * REACH) < 1.2 * size_after(REACH)


def test_a_rebuilt_key_is_known_to_be_idle_later() -> None:
    before = EntityStep(Entity.ACCOUNT, AccountLogic, FEATURES, SETTINGS)
    logic = before(None)
    logic.on_batch([Arrival(0, pay("x", day=0), 0, None)])
    after = EntityStep(Entity.ACCOUNT, AccountLogic, FEATURES, SETTINGS)
    rebuilt = after(logic.snapshot())
    after.idle.advance(MONDAY + after.plan.reach)
    assert after.idle.due(Tick(0)) == []
    after.idle.advance(MONDAY + after.plan.reach + 1)
    assert after.idle.due(Tick(0)) == [("a", None)]
    parts, done = rebuilt.on_batch([None])
    assert (list(parts), done) == ([], True)


def test_gather_must_have_nothing_pending_when_an_epoch_ends() -> None:
    payment = pay("x", day=0)
    gather = Gather(None)
    gather.snapshot()
    complete, done = gather.on_batch([MerchantPart(7, "a", [2.0])])
    assert (list(complete), done) == ([], False)
    with pytest.raises(AssertionError):
        gather.snapshot()
    complete, _ = gather.on_batch([AccountPart(7, payment, [1.0], None)])
    assert list(complete) == [Candidate(payment, [1.0, 2.0])]
    gather.snapshot()


@given(st.permutations([(number, side) for number in range(6) for side in (0, 1)]), st.integers(1, 12))
def test_gather_completes_each_once_and_a_batch_in_the_order_of_reading(
    order: list[tuple[int, int]], batch: int
) -> None:
    gather = Gather(None)
    payments = [pay(str(number), day=0) for number in range(6)]
    completed: list[Candidate | Rejection] = []
    for start in range(0, len(order), batch):
        parts = [
            MerchantPart(number, "a", [2.0]) if side else AccountPart(number, payments[number], [1.0], None)
            for number, side in order[start : start + batch]
        ]
        complete = list(gather.on_batch(parts)[0])
        numbers = [int(item.transaction.transaction_id) for item in complete if isinstance(item, Candidate)]
        assert numbers == sorted(numbers)
        completed += complete
    gather.snapshot()
    found = [item.transaction for item in completed if isinstance(item, Candidate)]
    assert Counter(found) == Counter(payments)


@given(st.text(min_size=1, max_size=64))
def test_both_parts_of_a_transaction_meet_under_one_of_a_few_keys(account: str) -> None:
    payment = pay("x", account=account, day=0)
    of_account, _ = gather_key(("anything", AccountPart(1, payment, None, None)))
    of_merchant, _ = gather_key(("something else", MerchantPart(1, account, [])))
    assert of_account == of_merchant
    assert int(of_account) in range(GATHER_KEYS)
