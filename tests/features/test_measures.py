from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peers.measures import own_features
from features.definitions import FEATURES, Aggregate, Entity, Feature
from features.measures import own
from features.transaction import Transaction
from tests.features.live import bits, columns

OWN = [f for f in FEATURES if f.entity is Entity.TRANSACTION]
_HOUR = 3_600_000_000


@given(
    st.lists(
        st.tuples(
            st.integers(-(10**12), 10**12),
            st.integers(0, 2**51) | st.integers(0, 10**6).map(lambda hours: hours * _HOUR),
        ),
        max_size=10,
    )
)
def test_a_batchs_own_features_are_those_of_its_transactions(rows: list[tuple[int, int]]) -> None:
    transactions = [Transaction("t", "a", "m", amount, instant) for amount, instant in rows]
    found = np.empty((len(rows), len(OWN)), np.float32)
    own(FEATURES, *columns(transactions), found)
    expected = np.array([own_features(FEATURES, transaction) for transaction in transactions], np.float32)
    assert bits(found.ravel()) == bits(expected.ravel())


def test_an_aggregate_of_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="count needs a window"):
        own([Feature(Entity.TRANSACTION, Aggregate.COUNT)], *columns([]), np.empty((0, 1), np.float32))
