"""What a poll gives, as runs of single partitions."""

from __future__ import annotations

from itertools import pairwise

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from flows.poll import runs

places = st.tuples(st.sampled_from(["transactions", "labels"]), st.integers(0, 2))


@given(st.lists(places))
def test_runs_are_the_messages_in_their_order_each_of_one_partition(of: list[tuple[str, int]]) -> None:
    messages = [Message(topic=topic, partition=number, offset=i) for i, (topic, number) in enumerate(of)]
    found = list(runs(messages))
    assert [(key, message.offset()) for key, run in found for message in run] == list(
        zip(of, range(len(of)), strict=True)
    )
    assert all(run for _, run in found)
    assert all(before != after for (before, _), (after, _) in pairwise(found)), "none is cut in two"
