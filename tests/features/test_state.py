from __future__ import annotations

import math
import pickle
import random
import statistics
from bisect import bisect_right
from collections.abc import Iterable
from datetime import timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import DAY, FEATURES, Aggregate, Entity, Feature
from features.fields import END, Field
from features.state import EntityState, Plan
from features.transaction import MICROSECOND, Label, Transaction
from tests.features import oracle
from tests.features.histories import DAY_US, MONDAY, TINY, History, histories
from tests.features.live import Live, bits, differing
from tests.features.oracle import Floats, Record

ACCOUNT = Plan(FEATURES, Entity.ACCOUNT)
MERCHANT = Plan(FEATURES, Entity.MERCHANT)
DELAYED = 7 * DAY_US
FRAUD_COUNT = Feature(Entity.MERCHANT, Aggregate.FRAUD_COUNT, 30 * DAY, 7 * DAY)
FRAUD_RATIO = Feature(Entity.MERCHANT, Aggregate.FRAUD_RATIO, 30 * DAY, 7 * DAY)


def paid(number: int, timestamp: int, amount: int = 100, **more: str | None) -> Transaction:
    return Transaction(f"t{number}", "a", "m", amount, timestamp, **more)


def said(number: int, timestamp: int, labelled_at: int, is_fraud: bool = True) -> Label:
    return Label(f"t{number}", "a", "m", timestamp, is_fraud, labelled_at)


def look(state: EntityState, transaction: Transaction) -> Floats:
    return np.array(state.get(transaction), dtype=np.float32)


def state_of(features: Iterable[Feature], records: Iterable[Record]) -> EntityState:
    """The state of the entity that all the features look at."""
    chosen = list(features)
    state = EntityState(Plan(chosen, chosen[0].entity))
    for record in records:
        if isinstance(record, Label):
            state.update_label(record)
        else:
            state.update(record)
    return state


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


def test_an_account_of_sixty_events_in_a_month_is_small() -> None:
    for seed in range(20):
        events = month_of(60, random.Random(seed))
        state = EntityState(ACCOUNT)
        for event in events:
            state.get(event)
            state.update(event)
            state.forget(event.timestamp - DAY_US)
        assert len(state.instants) == 60
        assert len({event.merchant_id for event in events}) == 42
        assert len(state.pack()) <= 1500


@given(histories(contradicting=True))
def test_what_was_packed_is_packed_the_same_again(history: History) -> None:
    live = Live(history.features, history.lateness)
    for record in history.records:
        live.arrive(record)
    for (entity, _), state in live.states.items():
        packed = state.pack()
        assert state.pack() == packed
        assert EntityState.unpack(live.plans[entity], packed).pack() == packed


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


@given(histories(contradicting=True))
def test_forgetting_leaves_no_trace(history: History) -> None:
    forgetting, keeping = Live(history.features, history.lateness), Live(history.features, timedelta(days=400))
    for record in history.records:
        values, expected = forgetting.arrive(record), keeping.arrive(record)
        assert (values is None) == (expected is None)
        if values is not None and expected is not None:
            assert not differing(history.features, values, expected)


@given(histories(contradicting=True), st.lists(st.integers(-50 * DAY_US, 50 * DAY_US), min_size=5, max_size=5))
def test_looking_leaves_no_trace(history: History, shifts: list[int]) -> None:
    """Values asked for at any instants, past and future, move cursors to and fro; what comes after is the same."""
    looking, straight = (Live(history.features, history.lateness) for _ in range(2))
    for i, record in enumerate(history.records):
        values, expected = looking.arrive(record), straight.arrive(record)
        assert (values is None) == (expected is None)
        if values is not None and expected is not None:
            assert not differing(history.features, values, expected)
        shift = shifts[i % 5] if history.world == "real" else shifts[i % 5] % 60 - 20
        looking.probe(Transaction("look", record.account_id, record.merchant_id, 1, max(0, record.timestamp + shift)))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60), st.booleans()), min_size=2, max_size=20))
def test_taking_in_needs_no_looking(steps: list[tuple[int, int, bool]]) -> None:
    """Events may be taken in without their own features being asked for, at instants that cursors have passed."""
    features = [f for f in TINY if f.entity is Entity.ACCOUNT]
    state, taken = EntityState(Plan(features, Entity.ACCOUNT)), list[Record]()
    for number, (instant, now, looks) in enumerate(steps):
        event = Transaction(f"t{number}", "a", f"m{instant % 3}", number, MONDAY + instant)
        state.update(event)
        taken.append(event)
        if looks:
            probe = Transaction("look", "a", "m1", 5, MONDAY + now)
            assert not differing(features, look(state, probe), oracle.values(features, probe, taken))


@pytest.mark.parametrize("plan", [ACCOUNT, MERCHANT], ids=["account", "merchant"])
def test_a_state_keeps_what_windows_reach_and_an_eighth_more_at_most(plan: Plan) -> None:
    rng = random.Random(11)
    state = EntityState(plan)
    t, instants, largest = MONDAY, list[int](), 0
    in_reach = 1000  # events, of six times as many
    for number in range(6 * in_reach):
        t += int(rng.expovariate(in_reach / plan.reach))
        state.update(paid(number, t, device_id=f"device-{number}", location=f"place-{number}"))
        instants.append(t)
        if number % 3 == 0:
            state.update_label(said(number, t, t + DELAYED))
        watermark = t - DAY_US
        state.forget(watermark)
        needed = number + 1 - bisect_right(instants, watermark - plan.reach)
        assert needed <= len(state.instants) <= needed + len(state.instants) // 8
        assert len(state.amounts) == len(state.instants)
        for field in state.fields:
            assert len(field.codes) == len(state.instants)
            assert field.texts.count(END) - 1 <= len(state.instants) + 8
        # Labels come in the order of their transactions here, so that none outlives its window.
        assert all(timestamp > watermark - plan.reach for timestamp, _ in state.labels.values())
        largest = max(largest, len(state.pack()))
    assert len(state.instants) < 1.25 * in_reach
    assert largest < 80 * 1.25 * in_reach


def test_labels_that_come_in_any_order_go_too() -> None:
    rng = random.Random(12)
    state = EntityState(MERCHANT)
    reach = MERCHANT.reach
    largest = 0
    for number in range(20_000):
        watermark = MONDAY + number * DAY_US // 40
        timestamp = watermark - rng.randrange(reach)
        state.update_label(said(number, timestamp, watermark))
        state.forget(watermark)
        largest = max(largest, len(state.labels))
    # 40 labels a day for 37 days; of those still there, half can be of use on average.
    assert largest < 2 * 40 * 37
    state.forget(watermark + reach + 1)
    assert not state.labels


def test_everything_goes_once_the_watermark_is_past_it() -> None:
    state = state_of(ACCOUNT.features, month_of(60, random.Random(1)))
    state.update_label(said(0, state.instants[0], state.instants[0]))
    state.update_label(said(1, state.instants[-1], state.instants[-1]))
    state.forget(state.instants[-1] + ACCOUNT.reach)
    assert not state.instants
    assert not state.amounts
    assert not state.labels
    assert state.newest() == 0
    assert len(state.pack()) < 100 + len(EntityState(ACCOUNT).pack())


def test_forgetting_ends_just_before_what_a_window_at_the_watermark_reaches() -> None:
    watermark = MONDAY + 100 * DAY_US
    edge = watermark - MERCHANT.reach
    state = state_of(
        MERCHANT.features, [paid(0, edge), paid(1, edge + 1), said(0, edge, edge), said(1, edge + 1, edge)]
    )
    state.forget(watermark)
    assert list(state.instants) == [edge + 1]
    assert list(state.labels) == ["t1"]


def test_newest_is_the_last_instant_of_use() -> None:
    state = EntityState(MERCHANT)
    assert state.newest() == 0
    state.update_label(said(0, MONDAY + 5, MONDAY + 9))
    assert state.newest() == MONDAY + 5
    state.update(paid(1, MONDAY))
    assert state.newest() == MONDAY + 5
    state.update(paid(2, MONDAY + 7))
    assert state.newest() == MONDAY + 7


@pytest.mark.parametrize(
    "amounts",
    [
        [10**12] * 3 + [-(10**12)],
        [10**12, 10**12 - 1, 10**12 - 2],
        [2**31 - 1, 2**31, -(2**31), -(2**31) - 1],
        [-1, 0, 1, 10**12],
        [7] * 100,
    ],
)
def test_deviations_are_exact_to_rounding_and_amounts_widen_their_array(amounts: list[int]) -> None:
    features = [Feature(Entity.ACCOUNT, a, 7 * DAY) for a in (Aggregate.STD, Aggregate.MEAN, Aggregate.SUM)]
    state = state_of(features, [paid(i, MONDAY + i, amount) for i, amount in enumerate(amounts)])
    restored = EntityState.unpack(state.plan, state.pack())
    expected = [
        statistics.stdev(map(Fraction, amounts)) / 100,
        float(Fraction(sum(amounts), 100 * len(amounts))),
        float(Fraction(sum(amounts), 100)),
    ]
    for one in (state, restored):
        assert list(one.amounts) == amounts
        assert bits(look(one, paid(99, MONDAY + 1000))) == bits(np.array(expected, dtype=np.float32))


@given(st.lists(st.integers(-(10**12), 10**12) | st.sampled_from([10**12, 10**12 - 1]), min_size=2, max_size=40))
def test_deviations_of_any_amounts_are_exact_to_rounding(amounts: list[int]) -> None:
    std = Feature(Entity.ACCOUNT, Aggregate.STD, 7 * DAY)
    state = state_of([std], [paid(i, MONDAY + i, amount) for i, amount in enumerate(amounts)])
    (found,) = state.get(paid(99, MONDAY + 1000))
    assert math.isclose(found, statistics.stdev(map(Fraction, amounts)) / 100, rel_tol=1e-15)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=40), st.integers(-(10**6), 10**6))
def test_zscores_and_ratios_are_their_formulas(amounts: list[int], own: int) -> None:
    zscore, ratio = (Feature(Entity.ACCOUNT, a, 7 * DAY) for a in (Aggregate.ZSCORE, Aggregate.RATIO))
    state = state_of([zscore, ratio], [paid(i, MONDAY + i, amount) for i, amount in enumerate(amounts)])
    found = state.get(paid(99, MONDAY + 1000, own))
    mean, deviation = Fraction(sum(amounts), len(amounts)), statistics.stdev(map(Fraction, amounts))
    if deviation:
        assert math.isclose(found[0], float(own - mean) / deviation, rel_tol=1e-9, abs_tol=1e-9)
    else:
        assert math.isnan(found[0])
    if mean:
        assert math.isclose(found[1], float(own / mean), rel_tol=1e-14)
    else:
        assert math.isnan(found[1])


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


def fraud_counts(records: Iterable[Record], *instants: int) -> list[float]:
    state = state_of([FRAUD_COUNT], records)
    return [state.get(paid(99, instant))[0] for instant in instants]


def test_a_fraud_counts_when_its_label_is_known_and_while_its_window_holds_it() -> None:
    known = MONDAY + 10 * DAY_US
    beyond = MONDAY + 37 * DAY_US
    records: list[Record] = [paid(0, MONDAY), said(0, MONDAY, known)]
    assert fraud_counts(records, MONDAY + DELAYED, known - 1, known, beyond - 1, beyond) == [0, 0, 1, 1, 0]


def test_a_label_known_early_counts_only_after_the_delay() -> None:
    records: list[Record] = [paid(0, MONDAY), said(0, MONDAY, MONDAY + 1)]
    assert fraud_counts(records, MONDAY + 1, MONDAY + DELAYED - 1, MONDAY + DELAYED) == [0, 0, 1]


def test_the_last_word_said_of_a_transaction_by_then_is_what_counts() -> None:
    t = MONDAY + DELAYED
    records: list[Record] = [
        paid(0, MONDAY),
        said(0, MONDAY, t + 20, is_fraud=False),
        said(0, MONDAY, t + 10),
        said(0, MONDAY, t + 30),
        said(0, MONDAY, t + 10),
    ]
    assert fraud_counts(records, t + 9, t + 10, t + 19, t + 20, t + 29, t + 30) == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_of_two_words_at_one_instant_the_accusation_counts_whichever_came_first(order: tuple[bool, bool]) -> None:
    t = MONDAY + DELAYED
    records: list[Record] = [paid(0, MONDAY), *(said(0, MONDAY, t, is_fraud=word) for word in order)]
    assert fraud_counts(records, t, t + 1) == [1, 1]


def test_a_label_waits_for_its_transaction() -> None:
    t = MONDAY + 8 * DAY_US
    state = state_of([FRAUD_COUNT, FRAUD_RATIO], [said(0, MONDAY, MONDAY + 1), paid(1, MONDAY + 1)])
    assert state.get(paid(9, t)) == [0, 0]
    state.update(paid(0, MONDAY))
    assert state.get(paid(9, t)) == [1, 0.5]


def test_a_plan_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="merchant"):
        Plan([f for f in TINY if f.entity is Entity.ACCOUNT], Entity.MERCHANT)


def test_reach_covers_the_longest_delayed_window_and_the_longest_reference() -> None:
    assert MERCHANT.reach * MICROSECOND == 37 * DAY
    assert ACCOUNT.reach * MICROSECOND == 90 * DAY
