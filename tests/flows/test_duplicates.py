"""Ids seen of late against a plain dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from features.fields import END
from flows.duplicates import RecentIds

# Ids that begin, end and consist of each other, and what a separator might be taken for.
ids = st.one_of(
    st.sampled_from(["", "a", "aa", "ab", "b", "a\nb", "\x00", "ÿ", "þ", "1", "11", "é" * 64]),
    st.text(max_size=4),
).map(str.encode)


@given(st.lists(st.tuples(ids, st.integers(0, 20), st.booleans(), st.booleans()), max_size=60))
def test_knows_what_came_since_whatever_was_forgotten_or_saved(steps: list[tuple[bytes, int, bool, bool]]) -> None:
    recent = RecentIds()
    came: dict[bytes, int] = {}
    since = 0
    for identity, ahead, forget, save in steps:
        since += ahead // 8
        seen = came.get(identity, -1) >= since
        assert recent.seen(identity, since) == seen
        if not seen:
            # As the steps use it: what is taken in is not older than what it is measured against.
            came[identity] = since + ahead
            recent.add(identity, since + ahead)
        if forget:
            recent.forget(since)
        if save:
            recent = RecentIds(*recent.pack())
        assert len(recent) >= sum(timestamp >= since for timestamp in came.values())
    for identity, timestamp in came.items():
        assert recent.seen(identity, since) == (timestamp >= since)


def test_stays_small_however_many_come() -> None:
    recent = RecentIds()
    largest = 0
    for number in range(20_000):
        recent.add(f"transaction-{number}".encode(), number)
        recent.forget(number - 500)
        largest = max(largest, len(recent))
    assert 500 <= largest < 700
    assert len(recent.pack()[0]) < 700 * 20


def test_empty() -> None:
    recent = RecentIds()
    recent.forget(10)
    assert len(recent) == 0
    assert not recent.seen(b"", 0)
    assert recent.pack() == (END, b"")
