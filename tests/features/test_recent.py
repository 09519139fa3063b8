from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.recent import RecentIds

Row = tuple[int, int, int, bool]
_hash = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 1 << 32])
_row = st.tuples(_hash, _hash, st.integers(0, 30), st.booleans())


def asked(recent: RecentIds, rows: list[Row], since: int) -> list[bool]:
    accounts, ids, instants = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    found: list[bool] = recent.repeats(accounts, ids, instants, np.array([r[3] for r in rows], bool), since).tolist()
    return found


def answers(model: dict[tuple[int, int], int], rows: list[Row], since: int) -> list[bool]:
    """The same of a dict, which forgets nothing."""
    found = []
    for account, number, instant, too_late in rows:
        known = model.get((account, number), -1)
        found.append(known >= max(since, 0))
        if not found[-1] and not too_late:
            model[account, number] = max(known, instant)
    return found


@given(st.lists(st.tuples(st.lists(_row, max_size=8), st.integers(0, 4)), max_size=12))
def test_it_is_a_dict_of_pairs(batches: list[tuple[list[Row], int]]) -> None:
    recent, model, since = RecentIds(), dict[tuple[int, int], int](), -5
    for rows, later in batches:
        since += later
        assert asked(recent, rows, since) == answers(model, rows, since)


def test_it_grows_and_drops_what_is_of_no_more_use() -> None:
    rng = np.random.default_rng(1)
    recent, model = RecentIds(), dict[tuple[int, int], int]()
    largest = 0
    for batch in range(300):
        instants = 1000 * batch + np.sort(rng.integers(0, 1000, 500))
        pairs = rng.integers(0, 400, (500, 2)) + 10 * batch
        late = rng.random(500) < 0.05
        rows = list(zip(*pairs.T.tolist(), instants.tolist(), late.tolist(), strict=True))
        since = 1000 * (batch - 20)
        assert asked(recent, rows, since) == answers(model, rows, since)
        largest = max(largest, recent.nbytes)
    # Twenty batches of five hundred are of use at a time, of a hundred and fifty thousand.
    assert largest <= 24 * 6 * 21 * 500 + 2_000_000  # one page, and what it grows by
    assert len(model) > 100_000


def test_it_grows_page_by_page_and_forgets_nothing() -> None:
    rng = np.random.default_rng(3)
    recent, n, batch = RecentIds(), 100_000, 100
    pairs = rng.integers(-(1 << 63), (1 << 63) - 1, (n, 2))
    bytes_then = [recent.nbytes]
    for begin in range(0, n, batch):
        new = [(a, b, 7, False) for a, b in pairs[begin : begin + batch].tolist()]
        old = [(a, b, 9, False) for a, b in pairs[rng.integers(0, begin + 1, batch)].tolist()]
        assert asked(recent, new, 5) == [False] * batch
        assert asked(recent, old, 5) == [True] * batch
        bytes_then.append(recent.nbytes)
    assert n * 24 * 1.4 <= bytes_then[-1] <= n * 24 * 4
    assert max(np.diff(bytes_then)) <= 4_500_000
    assert asked(recent, [(a, b, 7, False) for a, b in pairs.tolist()], 7) == [True] * n
    assert asked(recent, [(a, b, 7, True) for a, b in pairs.tolist()], 8) == [False] * n


def test_a_batch_of_one_size_is_as_good_as_any_other() -> None:
    rng = np.random.default_rng(2)
    columns: NDArray[np.int64] = rng.integers(0, 60, (3, 5000))
    rows = [(a, b, t, False) for a, b, t in columns.T.tolist()]
    whole, single = RecentIds(), RecentIds()
    assert asked(whole, rows, 0) == [found for row in rows for found in asked(single, [row], 0)]


def test_nothing_asked_is_nothing_answered() -> None:
    recent = RecentIds()
    assert asked(recent, [], 0) == []


def test_columns_of_different_lengths_are_refused() -> None:
    two, one = np.zeros(2, np.int64), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="one length"):
        RecentIds().repeats(two, two, one, two == 0, 0)
