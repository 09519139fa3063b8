"""The states as objects, which the peers of the benchmarks use: the same bits as the arrays, and packed small."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.peers.fields import END, Field
from bench.peers.measures import own_features
from bench.peers.state import EntityState, Plan
from features.definitions import DAY, FEATURES, Aggregate, Entity, Feature
from features.transaction import MICROSECOND, Label, Transaction
from tests.features import oracle
from tests.features.histories import DAY_US, MONDAY, History, histories
from tests.features.live import KEYED, Live, bits, differing, key_of
from tests.features.oracle import Floats, Record

ACCOUNT = Plan(FEATURES, Entity.ACCOUNT)
steady = settings(deadline=None, derandomize=True)  # the first example may wait for a compiler


class Objects:
    """As ``tests.features.live.Live``, with an object for every account and merchant."""

    def __init__(self, history: History) -> None:
        self.features = history.features
        self.plans = {entity: Plan(self.features, entity) for entity in KEYED}
        self.states: dict[tuple[Entity, str], EntityState] = {}
        self._seen: set[str] = set()
        self._lateness = history.lateness // MICROSECOND
        self._watermark = 0

    def arrive(self, record: Record) -> Floats | None:
        states = {entity: self.state(entity, key_of(entity, record)) for entity in KEYED}
        if isinstance(record, Label):
            for state in states.values():
                state.update_label(record)
            return None
        if record.transaction_id in self._seen or record.timestamp < self._watermark:
            return None
        self._seen.add(record.transaction_id)
        self._watermark = max(self._watermark, record.timestamp - self._lateness)
        for state in self.states.values():
            state.forget(self._watermark)
        of_entity = {entity: iter(state.get(record)) for entity, state in states.items()}
        of_entity[Entity.TRANSACTION] = iter(own_features(self.features, record))
        for state in states.values():
            state.update(record)
        return np.array([next(of_entity[feature.entity]) for feature in self.features], dtype=np.float32)

    def restart(self, *, pickled: bool) -> None:
        """Puts every state away and brings it back, as a recovery does."""
        for key, state in self.states.items():
            if pickled:
                self.states[key] = pickle.loads(pickle.dumps(state))
            else:
                self.states[key] = EntityState.unpack(self.plans[key[0]], state.pack())

    def state(self, entity: Entity, key: str) -> EntityState:
        return self.states.setdefault((entity, key), EntityState(self.plans[entity]))


def paid(number: int, timestamp: int, amount: int = 100, **more: str | None) -> Transaction:
    return Transaction(f"t{number}", "a", "m", amount, timestamp, **more)


def state_of(features: Iterable[Feature], transactions: Iterable[Transaction]) -> EntityState:
    chosen = list(features)
    state = EntityState(Plan(chosen, chosen[0].entity))
    for transaction in transactions:
        state.update(transaction)
    return state


def look(state: EntityState, transaction: Transaction) -> Floats:
    return np.array(state.get(transaction), dtype=np.float32)


def month_of(events: int, rng: random.Random) -> list[Transaction]:
    """An account as accounts are: of ten transactions seven are with another merchant, the rest with favourites."""
    merchants = [f"{rng.randrange(10**7, 10**8)}" for _ in range(events * 7 // 10)]
    merchants += rng.choices(merchants[: events // 6], k=events - len(merchants))
    rng.shuffle(merchants)
    instants = sorted(MONDAY + rng.randrange(30 * 86_400) * 1_000_000 for _ in range(events))
    return [
        Transaction(
            f"{rng.randrange(10**11)}",
            "a",
            merchant,
            round(rng.lognormvariate(8, 1)),
            instant,
            rng.choice(["online", "in_store", "atm"]),
            rng.choice(["Paris", "Lyon", "Marseille"]),
            rng.choice(["3f9c2a71", "3f9c2a71", "b07de415"]),
        )
        for instant, merchant in zip(instants, merchants, strict=True)
    ]


@steady
@given(histories(contradicting=True, at_most=20))
def test_objects_and_arrays_are_two_ways_to_the_same_bits(history: History) -> None:
    objects, arrays = Objects(history), Live(history.features, history.lateness)
    for record in history.records:
        values, expected = objects.arrive(record), arrays.arrive(record)
        assert (values is None) == (expected is None)
        if values is not None and expected is not None:
            assert not differing(history.features, values, expected)


@steady
@given(histories(contradicting=True), st.lists(st.sampled_from(["packed", "pickled", None, None]), min_size=20))
def test_a_restart_leaves_no_trace(history: History, restarts: list[str | None]) -> None:
    restarted, arrays = Objects(history), Live(history.features, timedelta(days=400))
    arrays._lateness = history.lateness // MICROSECOND
    for i, record in enumerate(history.records):
        if how := restarts[i % len(restarts)]:
            restarted.restart(pickled=how == "pickled")
        values, expected = restarted.arrive(record), arrays.arrive(record)
        assert (values is None) == (expected is None)
        if values is not None and expected is not None:
            assert not differing(history.features, values, expected)


@steady
@given(histories(contradicting=True))
def test_what_was_packed_is_packed_the_same_again(history: History) -> None:
    objects = Objects(history)
    for record in history.records:
        objects.arrive(record)
    for (entity, _), state in objects.states.items():
        packed = state.pack()
        assert state.pack() == packed
        assert EntityState.unpack(objects.plans[entity], packed).pack() == packed


def test_an_account_of_sixty_events_in_a_month_is_small() -> None:
    for seed in range(20):
        events = month_of(60, random.Random(seed))
        state = state_of(ACCOUNT.features, events)
        assert len(state.instants) == 60
        assert len({event.merchant_id for event in events}) == 42
        assert len(state.pack()) <= 1500


def test_a_pickle_holds_what_a_pack_holds_and_works_on() -> None:
    events = month_of(60, random.Random(3))
    state = state_of(ACCOUNT.features, events)
    copy = pickle.loads(pickle.dumps(state))
    assert isinstance(copy, EntityState)
    assert copy.pack() == state.pack()
    later = paid(0, events[-1].timestamp + 5)
    for one in (state, copy):
        one.update(later)
    probe = paid(1, later.timestamp + DAY_US)
    assert bits(look(copy, probe)) == bits(look(state, probe))


@pytest.mark.parametrize("amounts", [[10**12] * 3 + [-(10**12)], [2**31 - 1, 2**31, -(2**31), -(2**31) - 1], [7] * 100])
def test_amounts_widen_their_array_and_come_back(amounts: list[int]) -> None:
    std = Feature(Entity.ACCOUNT, Aggregate.STD, 7 * DAY)
    events = [paid(i, MONDAY + i, amount) for i, amount in enumerate(amounts)]
    state = state_of([std], events)
    probe = paid(99, MONDAY + 1000)
    for one in (state, EntityState.unpack(state.plan, state.pack())):
        assert list(one.amounts) == amounts
        assert not differing([std], look(one, probe), oracle.values([std], probe, events))


def test_more_texts_than_a_byte_counts() -> None:
    rng = random.Random(13)
    features = [f for f in FEATURES if f.entity is Entity.ACCOUNT and f.field is not None]
    events = [
        paid(i, MONDAY + i, device_id=f"d{rng.randrange(700)}", location=f"{i}" if i % 7 else None) for i in range(1500)
    ]
    state = EntityState(Plan(features, Entity.ACCOUNT))
    for number, event in enumerate(events):
        if number % 100 == 99:
            state = EntityState.unpack(state.plan, state.pack())
            assert not differing(features, look(state, event), oracle.values(features, event, events[:number]))
        state.update(event)
    assert {field.codes.typecode for field in state.fields} == {"B", "H"}


@steady
@given(
    st.lists(
        st.tuples(
            st.integers(0, 20), st.sampled_from([None, "", "a", "b", "ab", "é", "\x00", "c", "d"]), st.integers(0, 3)
        ),
        max_size=40,
    )
)
def test_a_field_is_a_list_of_texts(steps: list[tuple[int, str | None, int]]) -> None:
    field = Field(EntityState(ACCOUNT).fields[0].codes[:0], END)
    model: list[str | None] = []
    for place, text, dropped in steps:
        at = min(place, len(model))
        field.insert(at, text)
        model.insert(at, text)
        if dropped == 3:
            field.drop(len(model) // 2)
            del model[: len(model) // 2]
        texts = [None, *(text.decode() for text in field.texts.split(END)[1:-1])]
        assert [texts[code] for code in field.codes] == model
        assert all(field.code(text) > 0 for text in model if text is not None)
    assert field.code("never seen") == -1
    assert field.code(None) == 0
