"""Stream, batch and oracle: the same float32 bits for every feature, at every prefix of every order of arrival."""

from __future__ import annotations

import random
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import batch
from features.definitions import DAY, FEATURES, Aggregate, Entity, Feature, reach
from features.state import EntityStates, Plan
from features.transaction import Label, Transaction
from tests.features import oracle
from tests.features.histories import DAY_US, MONDAY, TINY, History, histories
from tests.features.live import Live, columns, differing, frame
from tests.features.oracle import Floats, Record

# A batch costs much more than a look at a state.
some = settings(max_examples=settings().max_examples // 2)


@some
@given(histories())
def test_stream_oracle_and_batch_agree_at_every_prefix(history: History) -> None:
    live = Live(history.features, history.lateness)
    prefixes: list[tuple[list[Record], Floats]] = []
    for record in history.records:
        values = live.arrive(record)
        if values is not None:
            assert isinstance(record, Transaction)
            assert not differing(history.features, values, oracle.values(history.features, record, live.taken))
            prefixes.append((list(live.taken), values))

    # The prefixes are computed at once, as worlds of one frame that share no account and no merchant.
    worlds = [frame(records, world=f"{i}|") for i, (records, _) in enumerate(prefixes)]
    computed = batch.compute(pl.concat(worlds), history.features).to_numpy()
    arriving = np.cumsum([world.height for world in worlds]) - 1
    for (_, values), row in zip(prefixes, computed[arriving], strict=True):
        assert not differing(history.features, row, values)


@some
@given(histories(), st.randoms(use_true_random=False))
def test_batch_is_the_oracle_on_every_row_of_a_frame_in_any_order(history: History, rng: random.Random) -> None:
    live = Live(history.features, history.lateness)
    for record in history.records:
        live.arrive(record)
    shuffled = rng.sample(live.taken, len(live.taken))
    rows = batch.compute(frame(shuffled), history.features).to_numpy()
    transactions = [record for record in shuffled if isinstance(record, Transaction)]
    for transaction, row in zip(transactions, rows, strict=True):
        assert not differing(history.features, row, oracle.values(history.features, transaction, live.taken))


@given(histories(contradicting=True))
def test_stream_and_oracle_agree_on_labels_that_contradict_each_other(history: History) -> None:
    live = Live(history.features, history.lateness)
    for record in history.records:
        values = live.arrive(record)
        if values is not None:
            assert isinstance(record, Transaction)
            assert not differing(history.features, values, oracle.values(history.features, record, live.taken))


@given(histories(contradicting=True), st.randoms(use_true_random=False))
def test_the_order_of_arrival_leaves_no_trace(history: History, rng: random.Random) -> None:
    # With no limit on lateness every order is allowed.
    straight, shuffled = (Live(history.features, timedelta(days=400)) for _ in range(2))
    for record in history.records:
        straight.arrive(record)
    distinct = list(dict.fromkeys(history.records))
    for record in rng.sample(distinct, len(distinct)):
        shuffled.arrive(record)
    for record in distinct:
        if isinstance(record, Transaction):
            assert not differing(history.features, shuffled.probe(record), straight.probe(record))


@given(histories(contradicting=True, at_most=20), st.lists(st.integers(0, 7), min_size=40, max_size=40))
def test_batches_of_any_size_cut_anywhere_leave_no_trace(history: History, sizes: list[int]) -> None:
    batched, single = (Live(history.features, history.lateness) for _ in range(2))
    expected = [single.arrive(record) for record in history.records]
    found: list[Floats | None] = []
    for size in sizes:
        found += batched.arrive_together(history.records[len(found) : len(found) + size])
    found += batched.arrive_together(history.records[len(found) :])
    assert [values is None for values in found] == [values is None for values in expected]
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None and theirs is not None:
            assert not differing(history.features, ours, theirs)


def test_a_long_stream_agrees_with_one_batch_of_the_whole_history() -> None:
    """Five thousand transactions in three times what windows reach: these fill, empty and are forgotten many times.

    Labels come when they become known, so that nothing the batch knows of a row is news to the stream.
    """
    records = long_history(5000, random.Random(5))
    for features, size in ((FEATURES, 1), (FEATURES, 100), (TINY, 7)):
        live = Live(features, timedelta(days=1))
        found: dict[str, Floats] = {}
        for at in range(0, len(records), size):
            arriving = records[at : at + size]
            for record, values in zip(arriving, live.arrive_together(arriving), strict=True):
                if values is not None:
                    assert isinstance(record, Transaction)
                    found[record.transaction_id] = values
        computed = batch.compute(frame(records), features).to_numpy()
        transactions = [record for record in records if isinstance(record, Transaction)]
        assert len(found) == len(transactions) == 5000
        for transaction, row in zip(transactions, computed, strict=True):
            assert not differing(features, row, found[transaction.transaction_id])


@pytest.mark.parametrize("unit", [1, 2, 3, 7, 100, 1024])
@pytest.mark.parametrize(
    ("aggregate", "earlier"), [(Aggregate.RATIO, [1, 1, 1]), (Aggregate.ZSCORE, [0, 1, 1, 1, 1, -1, -1, -1, -1])]
)
def test_quotients_midway_between_two_float32_are_rounded_alike(
    aggregate: Aggregate, earlier: list[int], unit: int
) -> None:
    """Quotients such as 2**24 + 1 have no float32: an error in the last bit of the float64 shows in the float32.

    The mean of the earlier amounts is the unit for the ratio; it is zero for the z-score, and the unit the deviation.
    """
    feature = Feature(Entity.ACCOUNT, aggregate, DAY)
    past = [Transaction(f"t{i}", "a", "m", amount * unit, MONDAY + i) for i, amount in enumerate(earlier)]
    for odd in (1, 3, 11, 77_777, 2**23 + 5):
        event = Transaction("new", "a", "m", (2**24 + odd) * unit, MONDAY + 100)
        states = EntityStates(Plan([feature], Entity.ACCOUNT))
        states.update(["a"] * len(past), *columns(past), [])
        live = np.empty((1, 1), np.float32)
        states.get(["a"], *columns([event]), [], live)
        batched = batch.compute(frame([*past, event]), [feature]).item(len(past), 0)
        assert live[0, 0] == batched == np.float32(2**24 + odd)


def long_history(size: int, rng: random.Random) -> list[Record]:
    """Transactions by time, each label among them at the instant when it became known (before a transaction then)."""
    arrivals: list[tuple[int, int, Record]] = []
    for number in range(size):
        timestamp = MONDAY + rng.randrange(3 * reach(FEATURES).days * 24 * 60) * 60_000_000
        transaction = Transaction(
            f"t{number}",
            f"a{rng.randrange(40)}",
            f"m{int(rng.triangular(0, 60, 0))}",
            rng.choice([rng.randrange(1, 30_000), rng.randrange(1, 30_000), -500, 10**12]),
            timestamp,
            rng.choice(["online", "atm", None]),
            rng.choice(["Paris", "Lyon", "Brest", None]),
            f"d{rng.randrange(5)}",
        )
        arrivals.append((timestamp, 1, transaction))
        if rng.random() < 0.2:
            known = timestamp + rng.choice([0, 1, 3, 7, 8, 20]) * DAY_US
            label = Label(
                transaction.transaction_id,
                transaction.account_id,
                transaction.merchant_id,
                timestamp,
                rng.random() < 0.7,
                known,
            )
            # A label of the same instant follows its transaction: none counts before its window begins anyway.
            arrivals.append((known, 2 if known == timestamp else 0, label))
    return [record for _, _, record in sorted(arrivals, key=lambda arrival: arrival[:2])]
