"""Positions on one axis, and what a batch built on them could get wrong: cuts, gaps, extremes, overflow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import batch, timeline
from features.definitions import DAY, FEATURES, Aggregate, Entity, Feature
from features.timeline import Timeline, chunks
from features.transaction import Label, Transaction
from tests.features import oracle
from tests.features.histories import DAY_US, MONDAY, TINY
from tests.features.live import differing, frame
from tests.features.oracle import Record
from tests.features.test_parity import long_history

YEAR_9999 = 253_402_300_799_999_999
COUNT, STD = (Feature(Entity.ACCOUNT, aggregate, DAY) for aggregate in (Aggregate.COUNT, Aggregate.STD))

# Instants in clusters: within one everything is near the reach, and between two far beyond it.
events = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0, 10, 1_000, YEAR_9999 - 40]), st.integers(0, 30)), min_size=1
).map(lambda drawn: sorted((key, cluster + instant) for key, cluster, instant in drawn))


def on_one_axis(rows: Sequence[tuple[int, int]], reach: int) -> Timeline:
    keys, instants = np.array(rows).T
    return Timeline(keys.astype(np.uint64), instants, reach)


def cuts(sizes: Sequence[int], reach: int) -> list[slice]:
    return list(chunks(np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes), reach))


def paid(number: int, timestamp: int, amount: int = 100, account: str = "a") -> Transaction:
    return Transaction(f"t{number}", account, "m", amount, timestamp)


@given(events, st.integers(1, 25), st.data())
def test_a_position_counts_the_keys_events_up_to_an_offset_ago(
    rows: list[tuple[int, int]], reach: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(1, reach))
    found = on_one_axis(rows, reach).passed(offset)
    for (key, t), position in zip(rows, found.tolist(), strict=True):
        before = sum(other < key for other, _ in rows)
        assert position - before == sum(other == key and ts <= t - offset for other, ts in rows)


@given(events, st.integers(1, 25), st.data())
def test_what_is_active_has_begun_and_has_not_ended(
    rows: list[tuple[int, int]], reach: int, data: st.DataObject
) -> None:
    axis = on_one_axis(rows, reach)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    spans = [sorted(data.draw(st.tuples(st.integers(0, reach), st.integers(0, reach)))) for _ in chosen]
    at = axis.at[chosen]
    found = axis.active(at + np.array([b for b, _ in spans], int), at + np.array([e for _, e in spans], int))
    for (key, t), count in zip(rows, found.tolist(), strict=True):
        owners = [(rows[i], span) for i, span in zip(chosen, spans, strict=True)]
        assert count == sum(k == key and ts + begin <= t < ts + end for (k, ts), (begin, end) in owners)


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12))
def test_chunks_are_cut_between_keys_and_as_large_as_they_may_be(sizes: list[int], most: int) -> None:
    ends = np.cumsum(sizes).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "CHUNK", most)
        found = cuts(sizes, reach=5)
    assert [piece.start for piece in found] == [0, *(piece.stop for piece in found)][: len(found)]
    assert (found[-1].stop if found else 0) == sum(sizes)
    for piece in found:
        keys = [size for size, end in zip(sizes, ends, strict=True) if piece.start < end <= piece.stop]
        following = next((size for size, end in zip(sizes, ends, strict=True) if end > piece.stop), most)
        assert piece.stop in ends
        assert sum(keys) <= most or len(keys) == 1
        assert sum(keys) + following > most or piece.stop == sum(sizes)


def test_the_farther_windows_look_the_smaller_chunks_are() -> None:
    hundred_years = 100 * 366 * DAY_US
    pieces = cuts([2] * 5_000, hundred_years)
    assert 1 < len(pieces) < 20
    assert all((piece.stop - piece.start) * hundred_years <= 2**62 for piece in pieces)
    assert cuts([1, 1, 3], 2**62) == [slice(0, 1), slice(1, 2), slice(2, 5)]


@pytest.mark.parametrize("most", [1, 7, 50, 10**6])
def test_no_cut_leaves_a_trace(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts have about 25 rows and some merchants many more: chunks of less than a key, of some keys, of all."""
    history = frame(random.Random(1).sample(long_history(1000, random.Random(10)), 1100))
    for features in (FEATURES, TINY):
        monkeypatch.undo()
        expected = batch.compute(history, features)
        monkeypatch.setattr(timeline, "CHUNK", most)
        assert batch.compute(history, features).equals(expected)


def test_an_axis_too_long_for_64_bits_is_cut() -> None:
    """Six thousand rows, a window of 270 years: on one axis they would span twice what 64 bits hold."""
    ages = Feature(Entity.ACCOUNT, Aggregate.COUNT, timedelta(days=100_000))
    history = frame([paid(2 * i + j, MONDAY + j, account=f"a{i:04}") for i in range(3000) for j in (0, 1)])
    assert batch.compute(history, [ages]).to_series().to_list() == [0, 1] * 3000
    # One key alone never needs more than the time that it spans.
    history = frame([paid(i, MONDAY + i) for i in range(3000)])
    assert batch.compute(history, [ages]).to_series().to_list() == list(range(3000))


def test_gaps_of_thousands_of_years_do_not_add_up() -> None:
    """In whole, those of a hundred accounts would be three times what 64 bits hold."""
    instants = (0, YEAR_9999 - 1, YEAR_9999)
    history = frame([paid(3 * i + j, t, account=f"a{i}") for i in range(100) for j, t in enumerate(instants)])
    assert batch.compute(history, [COUNT]).to_series().to_list() == [0, 0, 1] * 100


def test_from_1970_to_9999() -> None:
    instants = [0, 1, DAY_US, 36 * DAY_US, YEAR_9999 - 37 * DAY_US, YEAR_9999 - 30 * DAY_US, YEAR_9999 - 1, YEAR_9999]
    records: list[Record] = [
        Transaction(f"t{account}{i}", account, "m", 100 + i, instant, "online", "Paris", f"d{i % 2}")
        for account in "ab"
        for i, instant in enumerate(instants)
    ]
    records += [
        Label(r.transaction_id, r.account_id, "m", r.timestamp, True, YEAR_9999 if i % 3 else r.timestamp)
        for i, r in enumerate(records)
        if isinstance(r, Transaction)
    ]
    for record, row in zip(records, batch.compute(frame(records)).to_numpy(), strict=False):
        assert isinstance(record, Transaction)
        assert not differing(FEATURES, row, oracle.values(FEATURES, record, records))


def test_a_label_that_comes_when_its_event_has_left_the_window_never_counts() -> None:
    frauds = Feature(Entity.MERCHANT, Aggregate.FRAUD_COUNT, DAY, DAY)
    left = MONDAY + 2 * DAY_US
    for known, expected in ((left - 2, 2), (left - 1, 1), (left, 0), (left + 1, 0), (YEAR_9999, 0)):
        records: list[Record] = [paid(0, MONDAY), Label("t0", "a", "m", MONDAY, True, known)]
        records += [paid(i, left - 3 + i) for i in range(1, 6)]
        assert batch.compute(frame(records), [frauds]).to_series().sum() == expected


def two_at_a_time(amounts: Sequence[int]) -> list[float]:
    """Deviations of the two amounts before each, in major units; they differ, so they are not 0."""
    return [abs(float(Fraction(b - a, 100))) / 2**0.5 for a, b in pairwise(amounts)]


@pytest.mark.parametrize("step", [10**9, 3_037_000_499, 3_037_000_500, 10**10, 10**12])
def test_deviations_are_exact_where_squares_outgrow_64_bits(step: int) -> None:
    """The square of the second step is the last that fits; the running sums of all rows' squares never do."""
    amounts = [step * (i % 2) + i // 2 for i in range(300)]
    small = [i * i for i in range(300)]
    # Ten hours apart, so that two events lie in the day before each.
    records = [
        paid(i, MONDAY + i * 10 * DAY_US // 24, amount, account)
        for account, own in (("a", amounts), ("small", small))
        for i, amount in enumerate(own)
    ]
    found = batch.compute(frame(records), [COUNT, STD])
    assert found[COUNT.name].to_list() == [0, 1, *[2] * 298] * 2
    deviations = found[STD.name].to_numpy().reshape(2, 300)[:, 2:]
    expected = [two_at_a_time(amounts)[:-1], two_at_a_time(small)[:-1]]
    np.testing.assert_array_equal(deviations, np.array(expected, np.float32))


def test_a_frame_of_many_pieces_is_as_good_as_one_of_one() -> None:
    history = frame(long_history(300, random.Random(12)))
    pieces = pl.concat([history[:100], history[100:]], rechunk=False)
    assert batch.compute(pieces).equals(batch.compute(history))
