from __future__ import annotations

import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import timedelta
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import compaction, state
from features.definitions import DAY, FEATURES, Aggregate, Entity, Feature
from features.layout import CAPACITY, ENTRIES_TOP, KNOWN, OWNER, REFERENCES, SIZE, SLABS_LIVE, SLABS_TOP, START
from features.state import EntityStates, Plan
from features.transaction import MICROSECOND, Label, Transaction
from tests.features import oracle
from tests.features.histories import DAY_US, MONDAY, TINY, History, histories
from tests.features.live import Live, bits, columns, differing, key_of, texts
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


def take_in(states: EntityStates, *records: Record) -> EntityStates:
    """Takes records in without asking for features."""
    for record in records:
        key = key_of(states.plan.entity, record)
        if isinstance(record, Label):
            states.label(key, record)
        else:
            states.update([key], *columns([record]), texts(states.plan, [record]))
    return states


def look(states: EntityStates, transaction: Transaction) -> Floats:
    """The features that it would have now."""
    values = np.empty((1, len(states.plan.features)), np.float32)
    key = key_of(states.plan.entity, transaction)
    states.get([key], *columns([transaction]), texts(states.plan, [transaction]), values)
    of_one: Floats = values[0]
    return of_one


def take(states: EntityStates, transactions: Sequence[Transaction]) -> Floats:
    """The features of a batch that is taken in."""
    values = np.empty((len(transactions), len(states.plan.features)), np.float32)
    keys = [key_of(states.plan.entity, transaction) for transaction in transactions]
    states.take(keys, *columns(transactions), texts(states.plan, transactions), values)
    return values


def state_of(features: Iterable[Feature], records: Iterable[Record]) -> EntityStates:
    """The states of the kind of entity that all the features look at."""
    chosen = list(features)
    return take_in(EntityStates(Plan(chosen, chosen[0].entity)), *records)


def held(states: EntityStates) -> int:
    """How many events."""
    return int(states._rows[:, SIZE].sum())


def sweep(states: EntityStates, watermark: int) -> int:
    """Forgets until every entity was seen; how many went."""
    return sum(states.forget(watermark) for _ in range(2 + len(states._rows) // 16))


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
    state, taken = EntityStates(Plan(features, Entity.ACCOUNT)), list[Record]()
    for number, (instant, now, looks) in enumerate(steps):
        event = Transaction(f"t{number}", "a", f"m{instant % 3}", number, MONDAY + instant)
        take_in(state, event)
        taken.append(event)
        if looks:
            probe = Transaction("look", "a", "m1", 5, MONDAY + now)
            assert not differing(features, look(state, probe), oracle.values(features, probe, taken))


@pytest.mark.parametrize("plan", [ACCOUNT, MERCHANT], ids=["account", "merchant"])
def test_a_state_keeps_what_windows_reach_and_an_eighth_more_at_most(plan: Plan) -> None:
    rng = random.Random(11)
    state = EntityStates(plan)
    t, instants, largest = MONDAY, list[int](), 0
    in_reach = 1000  # events, of six times as many
    for number in range(6 * in_reach):
        t += int(rng.expovariate(in_reach / plan.reach))
        take_in(state, paid(number, t, device_id=f"device-{number}", location=f"place-{number}"))
        instants.append(t)
        if number % 3 == 0:
            take_in(state, said(number, t, t + DELAYED))
        watermark = t - DAY_US
        state.forget(watermark)
        needed = number + 1 - bisect_right(instants, watermark - plan.reach)
        assert needed <= held(state) <= needed + held(state) // 8
        largest = max(largest, state.nbytes)
    assert held(state) < 1.25 * in_reach
    for labels in state._frauds.labels.values():
        assert all(timestamp > watermark - plan.reach for timestamp, _ in labels.values())
    assert largest < (420 if plan is ACCOUNT else 300) * 1.25 * in_reach


def test_labels_that_come_in_any_order_go_too() -> None:
    rng = random.Random(12)
    state = EntityStates(MERCHANT)
    reach = MERCHANT.reach
    largest = 0
    for number in range(20_000):
        watermark = MONDAY + number * DAY_US // 40
        timestamp = watermark - rng.randrange(reach)
        take_in(state, said(number, timestamp, watermark))
        state.forget(watermark)
        largest = max(largest, *map(len, state._frauds.labels.values()))
    # 40 labels a day for 37 days; of those still there, half can be of use on average.
    assert largest < 2 * 40 * 37
    assert sweep(state, watermark + reach + 1) == 1
    assert not state._frauds.labels
    assert len(state) == 0


def test_entities_go_once_the_watermark_is_past_them_and_come_back_as_new() -> None:
    events = [
        Transaction(f"t{i}", f"a{i % 50}", f"m{i % 7}", i, MONDAY + i, device_id=f"d{i % 9}") for i in range(1000)
    ]
    last = events[-1].timestamp
    for plan, others in ((ACCOUNT, 50), (MERCHANT, 7)):
        states = EntityStates(plan)
        expected = take(states, events)
        if plan is MERCHANT:
            take_in(states, said(0, MONDAY, MONDAY), Label("t6", "a", "m6", MONDAY + 6, True, last + DAY_US))
        assert len(states) == others + (plan is MERCHANT)
        assert sweep(states, last + plan.reach - 50) == (plan is MERCHANT)
        assert sweep(states, last + plan.reach) == others
        assert len(states) == held(states) == 0
        assert not states._rows[:, [SIZE, CAPACITY, KNOWN]].any()
        later = [msgspec.structs.replace(event, timestamp=event.timestamp + 105 * DAY_US) for event in events]
        assert bits(take(states, later).ravel()) == bits(expected.ravel())
        assert len(states._rows) <= 1 + others + 1 + 16 + others // 4


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
def test_deviations_are_exact_to_rounding(amounts: list[int]) -> None:
    features = [Feature(Entity.ACCOUNT, a, 7 * DAY) for a in (Aggregate.STD, Aggregate.MEAN, Aggregate.SUM)]
    state = state_of(features, [paid(i, MONDAY + i, amount) for i, amount in enumerate(amounts)])
    expected = [
        statistics.stdev(map(Fraction, amounts)) / 100,
        float(Fraction(sum(amounts), 100 * len(amounts))),
        float(Fraction(sum(amounts), 100)),
    ]
    assert bits(look(state, paid(99, MONDAY + 1000))) == bits(np.array(expected, dtype=np.float32))


@given(st.lists(st.integers(-(10**12), 10**12) | st.sampled_from([10**12, 10**12 - 1]), min_size=2, max_size=40))
def test_deviations_of_any_amounts_are_exact_to_rounding(amounts: list[int]) -> None:
    std = Feature(Entity.ACCOUNT, Aggregate.STD, 7 * DAY)
    state = state_of([std], [paid(i, MONDAY + i, amount) for i, amount in enumerate(amounts)])
    (found,) = look(state, paid(99, MONDAY + 1000))
    assert math.isclose(found, statistics.stdev(map(Fraction, amounts)) / 100, rel_tol=6e-8)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=40), st.integers(-(10**6), 10**6))
def test_zscores_and_ratios_are_their_formulas(amounts: list[int], own: int) -> None:
    zscore, ratio = (Feature(Entity.ACCOUNT, a, 7 * DAY) for a in (Aggregate.ZSCORE, Aggregate.RATIO))
    state = state_of([zscore, ratio], [paid(i, MONDAY + i, amount) for i, amount in enumerate(amounts)])
    found = look(state, paid(99, MONDAY + 1000, own))
    mean, deviation = Fraction(sum(amounts), len(amounts)), statistics.stdev(map(Fraction, amounts))
    if deviation:
        assert math.isclose(found[0], float(own - mean) / deviation, rel_tol=6e-8, abs_tol=1e-9)
    else:
        assert math.isnan(found[0])
    if mean:
        assert math.isclose(found[1], float(own / mean), rel_tol=6e-8)
    else:
        assert math.isnan(found[1])


def test_many_texts_of_one_entity() -> None:
    rng = random.Random(13)
    features = [f for f in FEATURES if f.entity is Entity.ACCOUNT and f.field is not None]
    events = [
        paid(i, MONDAY + i, device_id=f"d{rng.randrange(700)}", location=f"{i}" if i % 7 else None) for i in range(1500)
    ]
    states = EntityStates(Plan(features, Entity.ACCOUNT))
    for number, event in enumerate(events):
        if number % 100 == 99:
            assert not differing(features, look(states, event), oracle.values(features, event, events[:number]))
        take_in(states, event)


def test_the_empty_text_is_a_text() -> None:
    features = [f for f in FEATURES if f.field == "device_id"]
    probes = [paid(9, MONDAY + 9, device_id=text) for text in (None, "", "x")]
    for known in (None, "", "x"):
        events = [paid(0, MONDAY, device_id=known)]
        states = state_of(features, events)
        for probe in probes:
            assert not differing(features, look(states, probe), oracle.values(features, probe, events))


def random_walk(size: int, rng: random.Random) -> list[Transaction]:
    """Events of few and many, mostly in order, some late by up to a day, over eight months."""
    t, events = MONDAY, list[Transaction]()
    for number in range(size):
        t += rng.randrange(2 * 240 * DAY_US // size)
        merchant = f"m{int(rng.triangular(0, 90, 0))}"
        account = f"a{int(rng.triangular(0, 300, 0)) if rng.random() < 0.7 else 0}"
        late = rng.randrange(DAY_US) if rng.random() < 0.1 else 0
        device = rng.choice([None, f"d{rng.randrange(5)}", f"d{number}"])
        amount = rng.choice([rng.randrange(10**5), -rng.randrange(10**12)])
        events.append(Transaction(f"t{number}", account, merchant, amount, t - late, None, rng.choice("xyz"), device))
    return events


def test_slabs_and_entries_grow_and_are_used_again_without_a_trace() -> None:
    """Entities that come, grow, shrink, go and come back, in arrays that were made for none of it."""
    events = random_walk(12_000, random.Random(4))
    for plan in (ACCOUNT, MERCHANT):
        states, keeping = EntityStates(plan), EntityStates(plan)
        largest, newest = 0, 0
        for at in range(0, len(events), 50):
            batch = events[at : at + 50]
            newest = max(newest, batch[0].timestamp)
            states.forget(newest - 2 * DAY_US)
            assert bits(take(states, batch).ravel()) == bits(take(keeping, batch).ravel())
            if at == len(events) // 2:
                largest = states.nbytes
        assert held(keeping) == len(events)
        assert held(states) < 0.7 * len(events)
        assert states.nbytes < 1.4 * largest
        # Every event that is there refers to its entries, and every entry is referred to.
        referred = np.zeros(len(states._entries), np.int32)
        for row in states._rows[states._rows[:, SIZE] > 0]:
            refs = states._refs[row[START] : row[START] + row[SIZE]]
            np.add.at(referred, refs[refs > 0], 1)
        used = states._entries[:, OWNER] != -1
        assert (states._entries[used, REFERENCES] == referred[used]).all()
        assert not referred[~used].any()
        sweep(states, max(event.timestamp for event in events) + plan.reach)
        assert len(states) == held(states) == 0
        assert (states._entries[1 : states._marks[ENTRIES_TOP], OWNER] == -1).all()
        assert not states._heads.any()


@pytest.mark.parametrize("plan", [ACCOUNT, MERCHANT], ids=["account", "merchant"])
def test_a_compaction_under_way_leaves_no_trace(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SHARE", 100)
    monkeypatch.setattr(state, "_MOVED", 8)
    events = random_walk(6_000, random.Random(5))
    compacting, keeping = EntityStates(plan), EntityStates(plan)
    newest, steps, ended = 0, 0, 0
    for at in range(0, len(events), 40):
        batch = events[at : at + 40]
        compacting.compact()
        newest = max(newest, batch[0].timestamp)
        compacting.forget(newest - 2 * DAY_US)
        assert bits(take(compacting, batch).ravel()) == bits(take(keeping, batch).ravel())
        steps += compacting._compaction is not None
        ended += compacting._compaction is None
        assert not overlapping(compacting)
    assert steps > 4 * ended > 8
    while compacting._compaction is not None:
        take(compacting, [])
    assert not overlapping(compacting)
    free = compacting._marks[SLABS_TOP] - compacting._marks[SLABS_LIVE]
    assert 0 <= free < compacting._marks[SLABS_TOP] / 5
    assert len(compacting._events) <= compacting._marks[SLABS_TOP] * 5 / 4 + 64


def overlapping(states: EntityStates) -> int:
    """How many slabs begin where another one has not ended; what is said of all slabs is checked beside."""
    slabs = states._rows[states._rows[:, CAPACITY] > 0]
    assert (slabs[:, SIZE] <= slabs[:, CAPACITY]).all()
    assert slabs[:, CAPACITY].sum() == states._marks[SLABS_LIVE]
    begins, ends = np.sort(slabs[:, START]), np.sort(slabs[:, START] + slabs[:, CAPACITY])
    assert ends[-1] <= states._marks[SLABS_TOP] <= len(states._events)
    return int((begins[1:] < ends[:-1]).sum())


def test_updates_are_takes_without_their_features() -> None:
    events = random_walk(3000, random.Random(6))
    for plan in (ACCOUNT, MERCHANT):
        taking, updating = EntityStates(plan), EntityStates(plan)
        take(taking, events)
        keys = [key_of(plan.entity, event) for event in events]
        updating.update(keys, *columns(events), texts(plan, events))
        probes = random_walk(300, random.Random(7))
        for probe in probes:
            late = msgspec.structs.replace(probe, timestamp=events[-1].timestamp - DAY_US + probe.timestamp % DAY_US)
            assert bits(look(updating, late)) == bits(look(taking, late))


def test_features_go_into_a_part_of_a_wider_matrix_and_nothing_else_does() -> None:
    events = random_walk(100, random.Random(8))
    n = len(ACCOUNT.features)
    wide = np.full((100, n + 7), -1, np.float32)
    keys = [event.account_id for event in events]
    EntityStates(ACCOUNT).take(keys, *columns(events), texts(ACCOUNT, events), wide[:, 3 : 3 + n])
    assert bits(wide[:, 3 : 3 + n].ravel()) == bits(take(EntityStates(ACCOUNT), events).ravel())
    assert (wide[:, :3] == -1).all()
    assert (wide[:, 3 + n :] == -1).all()


def test_looking_at_a_stranger_makes_no_entity_of_him() -> None:
    states = state_of(MERCHANT.features, [paid(0, MONDAY)])
    stranger = Transaction("t", "a", "stranger", 100, MONDAY)
    assert not differing(MERCHANT.features, look(states, stranger), oracle.values(MERCHANT.features, stranger, []))
    assert len(states) == 1
    assert len(EntityStates(ACCOUNT)) == 0


def test_labels_are_kept_only_where_a_feature_looks_at_them() -> None:
    states = take_in(EntityStates(ACCOUNT), said(0, MONDAY, MONDAY))
    assert len(states) == 0


def test_what_does_not_fit_together_is_refused_before_anything_is_taken_in() -> None:
    events = [paid(0, MONDAY), paid(1, MONDAY)]
    instants, amounts = columns(events)
    out = np.empty((2, len(ACCOUNT.features)), np.float32)
    fitting = texts(ACCOUNT, events)
    states = EntityStates(ACCOUNT)
    with pytest.raises(ValueError, match="2 keys, instants"):
        states.update(["a", "b"], instants[:1], amounts, fitting)
    with pytest.raises(ValueError, match="3 columns of texts; give"):
        states.update(["a", "b"], instants, amounts, fitting[:3])
    with pytest.raises(ValueError, match="too short"):
        states.update(["a", "b"], instants, amounts, [column[:1] for column in fitting])
    doubles: Any = out.astype(np.float64)
    for wrong in (out[:1], out[:, :5], doubles):
        with pytest.raises(ValueError, match="give float32"):
            states.take(["a", "b"], instants, amounts, fitting, wrong)
    assert len(states) == 0


def test_an_empty_batch_is_nothing() -> None:
    states = EntityStates(ACCOUNT)
    assert take(states, []).shape == (0, len(ACCOUNT.features))
    assert len(states) == 0
    assert states.forget(MONDAY) == 0


def test_a_busy_account_costs_no_more_an_event_than_others() -> None:
    """A quarter of a million events in a window, some late: what grows with their square would take hours."""
    size = 250_000
    rng = np.random.default_rng(9)
    instants = MONDAY + np.arange(size) * (80 * DAY_US // size)
    instants[::100] -= rng.integers(0, 60_000_000, len(instants[::100]))
    amounts = rng.integers(1, 10**7, size)
    codes = rng.integers(0, 100_000, (len(ACCOUNT.fields), size))
    states = EntityStates(ACCOUNT)
    out = np.empty((1000, len(ACCOUNT.features)), np.float32)
    for at in range(0, size, 1000):
        rows = slice(at, at + 1000)
        columns_of = [[f"{code}" for code in column] for column in codes[:, rows].tolist()]
        states.take(["a"] * 1000, instants[rows], amounts[rows], columns_of, out)
        states.forget(int(instants[at]))
    last = [f.name for f in ACCOUNT.features].index("account_count_30d")
    inside = (instants[:-1] > instants[-1] - 30 * DAY_US) & (instants[:-1] < instants[-1])
    assert out[-1, last] == np.float32(inside.sum())
    merchants = [f.name for f in ACCOUNT.features].index("account_merchant_distinct_30d")
    field = ACCOUNT.fields.index("merchant_id")
    assert out[-1, merchants] == len(set(codes[field, :-1][inside].tolist()))


def fraud_counts(records: Iterable[Record], *instants: int) -> list[float]:
    state = state_of([FRAUD_COUNT], records)
    return [float(look(state, paid(99, instant))[0]) for instant in instants]


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
    assert list(look(state, paid(9, t))) == [0, 0]
    take_in(state, paid(0, MONDAY))
    assert list(look(state, paid(9, t))) == [1, 0.5]


def test_a_plan_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="merchant"):
        Plan([f for f in TINY if f.entity is Entity.ACCOUNT], Entity.MERCHANT)


def test_reach_covers_the_longest_delayed_window_and_the_longest_reference() -> None:
    assert MERCHANT.reach * MICROSECOND == 37 * DAY
    assert ACCOUNT.reach * MICROSECOND == 90 * DAY
