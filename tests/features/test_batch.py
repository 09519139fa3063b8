from __future__ import annotations

import random
import statistics
from fractions import Fraction
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import batch
from features.definitions import DAY, FEATURES, Aggregate, Entity, Feature, reach
from features.transaction import Label, Transaction
from tests.features import oracle
from tests.features.histories import DAY_US, MONDAY, TINY
from tests.features.live import SCHEMA, differing, frame
from tests.features.oracle import Record
from tests.features.test_parity import long_history

STD_7D = Feature(Entity.ACCOUNT, Aggregate.STD, 7 * DAY)
ZSCORE_7D = Feature(Entity.ACCOUNT, Aggregate.ZSCORE, 7 * DAY)


def paid(number: int, timestamp: int, amount: int = 100, **more: str | None) -> Transaction:
    return Transaction(f"t{number}", "a", "m", amount, timestamp, **more)


def test_one_float32_column_a_feature_in_the_order_given() -> None:
    history = frame([paid(0, MONDAY), paid(1, MONDAY + 1)])
    reverse = FEATURES[::-1]
    computed = batch.compute(history, reverse)
    assert computed.columns == [feature.name for feature in reverse]
    assert set(computed.dtypes) == {pl.Float32}
    assert computed.select(feature.name for feature in FEATURES).equals(batch.compute(history), null_equal=False)


def test_nothing_is_null_and_only_some_features_can_be_missing() -> None:
    computed = batch.compute(frame(long_history(300, random.Random(1))))
    assert computed.null_count().sum_horizontal().item() == 0
    never_missing = {Aggregate.COUNT, Aggregate.SUM, Aggregate.DISTINCT, Aggregate.FRAUD_COUNT, Aggregate.FRAUD_RATIO}
    for feature in FEATURES:
        if feature.entity is Entity.TRANSACTION or feature.aggregate in never_missing:
            assert not computed[feature.name].is_nan().any()


def test_an_empty_history_gives_no_rows_and_all_columns() -> None:
    computed = batch.compute(pl.DataFrame(schema=SCHEMA))
    assert computed.shape == (0, len(FEATURES))


def test_a_single_feature_needs_no_others() -> None:
    history = frame(long_history(200, random.Random(2)))
    everything = batch.compute(history)
    for feature in FEATURES:
        assert batch.compute(history, [feature]).to_series().equals(everything[feature.name])


def test_the_history_is_left_alone() -> None:
    history = frame(long_history(50, random.Random(3)))
    before = history.clone()
    batch.compute(history)
    assert history.equals(before)


def test_columns_that_the_features_do_not_need_are_ignored() -> None:
    history = frame(long_history(50, random.Random(4)))
    extended = history.with_columns(fraud_scenario=pl.lit("bot"), n=1, t=pl.lit(None), key=pl.lit("k"), total=2, row=3)
    assert batch.compute(extended).equals(batch.compute(history))


def test_rows_in_any_order_get_their_own_values() -> None:
    history = frame(long_history(400, random.Random(6))).with_row_index("place")
    shuffled = history.sample(fraction=1.0, shuffle=True, seed=1)
    expected = batch.compute(history).select(pl.all().gather(shuffled["place"]))
    assert batch.compute(shuffled).equals(expected)


@given(st.integers(0, 4_000_000_000_000_000))
def test_what_the_clock_says_of_a_transaction(timestamp: int) -> None:
    own = [feature for feature in FEATURES if feature.entity is Entity.TRANSACTION]
    transaction = paid(0, timestamp, amount=timestamp % 10_007 - 5_000)
    row = batch.compute(frame([transaction]), own).to_numpy()[0]
    assert not differing(own, row, oracle.values(own, transaction, []))


@pytest.mark.parametrize(("gap", "inside"), [(0, 0), (1, 1), (DAY_US - 1, 1), (DAY_US, 0), (DAY_US + 1, 0)], ids=str)
def test_a_window_ends_strictly_before_now_and_begins_strictly_after_its_length_ago(gap: int, inside: int) -> None:
    features = [Feature(entity, Aggregate.COUNT, DAY) for entity in (Entity.ACCOUNT, Entity.MERCHANT)]
    computed = batch.compute(frame([paid(0, MONDAY), paid(1, MONDAY + gap)]), features)
    assert computed.row(1) == (inside, inside)
    assert computed.row(0) == (0, 0)


@pytest.mark.parametrize(
    ("gap", "inside"),
    [(7 * DAY_US - 1, 0), (7 * DAY_US, 1), (8 * DAY_US - 1, 1), (8 * DAY_US, 0)],
    ids=str,
)
@pytest.mark.parametrize("known_after", [None, 0, 3 * DAY_US, 7 * DAY_US])
def test_a_delayed_window_holds_its_newer_edge_and_not_its_older_one(
    gap: int, inside: int, known_after: int | None
) -> None:
    features = [
        Feature(Entity.MERCHANT, aggregate, DAY, 7 * DAY)
        for aggregate in (Aggregate.COUNT, Aggregate.FRAUD_COUNT, Aggregate.FRAUD_RATIO)
    ]
    history = frame([paid(0, MONDAY), paid(1, MONDAY + gap)]).with_columns(
        is_fraud=pl.Series([True, False]),
        labelled_at=pl.when(pl.col("transaction_id") == "t0")
        .then(pl.lit(known_after, pl.Int64) + pl.col("timestamp").to_physical())
        .cast(pl.Datetime("us", "UTC")),
    )
    assert batch.compute(history, features).row(1) == (inside, inside, inside)


def test_a_label_counts_from_the_instant_at_which_it_is_known() -> None:
    ratio = Feature(Entity.MERCHANT, Aggregate.FRAUD_RATIO, 30 * DAY, 7 * DAY)
    known = MONDAY + 10 * DAY_US
    records: list[Record] = [paid(0, MONDAY), paid(1, MONDAY), Label("t0", "a", "m", MONDAY, True, known)]
    records += [paid(2, known - 1), paid(3, known), paid(4, MONDAY + 37 * DAY_US - 1), paid(5, MONDAY + 37 * DAY_US)]
    found = batch.compute(frame(records), [ratio]).to_series().to_list()
    # The two of MONDAY are in the windows of t2, t3 and t4; that of t4 also has t2 and t3, that of t5 only these.
    assert found == [0, 0, 0, 0.5, 0.25, 0]


@given(st.lists(st.integers(-(10**12), 10**12) | st.sampled_from([10**12, 10**12 - 1]), min_size=2, max_size=40))
def test_deviations_are_exact_to_rounding_however_large_the_amounts(amounts: list[int]) -> None:
    """Sums of squares of float64 would lose everything here: 10**12 squared has 81 bits."""
    records: list[Record] = [paid(i, MONDAY + i, amount) for i, amount in enumerate([*amounts, 0])]
    found = batch.compute(frame(records), [STD_7D]).to_series()[-1]
    assert found == np.float32(statistics.stdev(map(Fraction, amounts)) / 100)


def test_deviations_of_a_long_history_of_extreme_amounts_are_exact() -> None:
    amounts = [10**12 - i % 3 for i in range(30_000)]
    records: list[Record] = [paid(i, MONDAY + i, amount) for i, amount in enumerate([*amounts, 5])]
    n, total, squares = len(amounts), sum(amounts), sum(amount**2 for amount in amounts)
    exact = float(Fraction(n * squares - total**2, n * (n - 1))) ** 0.5 / 100
    found = batch.compute(frame(records), [STD_7D]).to_series()[-1]
    assert found == np.float32(exact)


def test_equal_amounts_have_no_deviation_and_so_no_zscore() -> None:
    records: list[Record] = [paid(i, MONDAY + i, 1_999) for i in range(5)]
    std, zscore = batch.compute(frame(records), [STD_7D, ZSCORE_7D])
    assert std.to_list()[2:] == [0, 0, 0]
    assert std.is_nan().to_list() == [True, True, False, False, False]
    assert zscore.is_nan().all()


def test_amounts_that_cancel_out_have_a_mean_of_zero_and_no_ratio_to_it() -> None:
    records: list[Record] = [paid(0, MONDAY, 500), paid(1, MONDAY + 1, -500), paid(2, MONDAY + 2, 700)]
    mean, ratio = (Feature(Entity.ACCOUNT, a, DAY) for a in (Aggregate.MEAN, Aggregate.RATIO))
    found = batch.compute(frame(records), [mean, ratio]).row(2)
    assert found[0] == 0
    assert np.isnan(found[1])


def test_a_missing_value_is_neither_new_nor_counted_and_an_empty_text_is_a_value() -> None:
    texts = [None, "", "", "x", None, "X"]
    records: list[Record] = [paid(i, MONDAY + i, device_id=text) for i, text in enumerate(texts)]
    new, distinct = (Feature(Entity.ACCOUNT, a, DAY, field="device_id") for a in (Aggregate.NEW, Aggregate.DISTINCT))
    computed = batch.compute(frame(records), [new, distinct])
    assert [None if np.isnan(v) else v for v in computed[new.name]] == [None, 1, 0, 1, None, 1]
    assert computed[distinct.name].to_list() == [0, 0, 1, 1, 2, 2]


def test_an_aggregate_without_its_window_is_refused_by_name() -> None:
    history = frame([paid(0, MONDAY)])
    with pytest.raises(ValueError, match="amount_mean"):
        batch.compute(history, [Feature(Entity.TRANSACTION, Aggregate.MEAN)])
    with pytest.raises(ValueError, match="hour"):
        batch.compute(history, [Feature(Entity.ACCOUNT, Aggregate.HOUR, DAY)])
    with pytest.raises(ValueError, match="count has no window"):
        batch.compute(history, [Feature(Entity.ACCOUNT, Aggregate.COUNT)])


def test_more_history_behind_a_window_changes_nothing() -> None:
    """What lies before the reach of every window leaves no trace, not even in the last bit of a sum."""
    past = [paid(i, MONDAY + i, 10**12 - i) for i in range(50)]
    later = MONDAY + (reach(FEATURES).days + 1) * DAY_US
    recent = [
        Transaction(f"r{i}", "a", "m", 1 + i * i, later + i * DAY_US // 3, "online", "Paris", f"d{i % 3}")
        for i in range(60)
    ]
    alone, behind = batch.compute(frame(recent)), batch.compute(frame([*past, *recent])).tail(len(recent))
    assert alone.equals(behind)
    assert all(before.timestamp < after.timestamp for before, after in pairwise(recent))


def test_tiny_windows_on_a_dense_history_equal_the_oracle() -> None:
    rng = random.Random(9)
    records: list[Record] = [
        Transaction(
            f"t{i}",
            rng.choice("ab"),
            rng.choice("mn"),
            rng.randrange(-5, 50),
            MONDAY + rng.randrange(60),
            None,
            None,
            "d",
        )
        for i in range(150)
    ]
    rows = batch.compute(frame(records), TINY).to_numpy()
    for record, row in zip(records, rows, strict=True):
        assert isinstance(record, Transaction)
        assert not differing(TINY, row, oracle.values(TINY, record, records))
