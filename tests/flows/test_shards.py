"""One shard of each kind a worker, in the real engine; and nothing lost or mixed up in dealing."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource, cluster_main
from hypothesis import given
from hypothesis import strategies as st

from features.transaction import Label
from flows.records import ForAccounts, ForMerchants, Transactions
from flows.shards import Dealer, keys_of
from tests.flows.traffic import pay


class Where(StatefulBatchLogic[str, tuple[str, int], None]):
    """Says which worker a key falls to: with several in one process, each is a thread."""

    def on_batch(self, values: list[str]) -> tuple[Iterable[tuple[str, int]], bool]:
        return [(value, threading.get_ident()) for value in values], StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        return None


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_the_engine_gives_each_shard_to_a_worker_of_its_own(workers: int) -> None:
    keys = keys_of(workers)
    found: list[tuple[str, tuple[str, int]]] = []
    flow = Dataflow("shards")
    keyed = op.key_on("key", op.input("in", flow, TestingSource(keys * 2)), lambda key: key)
    op.output("out", op.stateful_batch("where", keyed, lambda _: Where()), TestingSink(found))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]
    assert len({key: worker for key, (_, worker) in found}) == workers
    assert len({worker for _, (_, worker) in found}) == workers


ids = st.text("ab", min_size=1, max_size=2)


@given(st.lists(st.tuples(ids, ids)), st.lists(st.tuples(st.integers(0, 50), ids)), st.integers(1, 4))
def test_each_transaction_goes_to_one_shard_of_each_kind_and_finds_home(
    pairs: list[tuple[str, str]], said: list[tuple[int, str]], workers: int
) -> None:
    payments = [pay(str(i), account=a, merchant=m, day=i) for i, (a, m) in enumerate(pairs)]
    labels = sorted(
        (
            (min(before, len(pairs)), Label(str(i), "a", merchant, 1, True, 2))
            for i, (before, merchant) in enumerate(said)
        ),
        key=lambda label: label[0],
    )
    dealt = Dealer(workers).deal(Transactions.of(payments), labels, 7)
    for_accounts = {part.key: part for part in dealt if isinstance(part, ForAccounts)}
    for_merchants = [part for part in dealt if isinstance(part, ForMerchants)]
    assert len(dealt) == len(for_accounts) + len({part.key for part in for_merchants})
    assert {part.number for part in dealt} <= {1}
    assert sorted(i for part in for_accounts.values() for i in part.transactions.transaction_id) == sorted(
        t.transaction_id for t in payments
    )
    read_before = {label.transaction_id: before for before, label in labels}
    homes: list[str] = []
    for part in for_merchants:
        for home in part.homes:
            here = part.transactions.at(home.here).transaction_id
            assert here == for_accounts[home.key].transactions.at(home.there).transaction_id
            homes += here
        places = [int(identity) for identity in part.transactions.transaction_id]
        assert places == sorted(places), "the order of reading"
        for before, label in part.labels:
            assert before == sum(place < read_before[label.transaction_id] for place in places)
    assert sorted(homes) == sorted(t.transaction_id for t in payments)
    assert sorted(label.transaction_id for part in for_merchants for _, label in part.labels) == sorted(
        label.transaction_id for _, label in labels
    )
    for of in ("account_id", "merchant_id"):
        parts = for_accounts.values() if of == "account_id" else for_merchants
        owners = [set(getattr(part.transactions, of)) for part in parts]
        assert len(set().union(*owners)) == sum(map(len, owners)), "no entity is in two shards"


@given(st.lists(st.tuples(ids, ids), min_size=1), st.integers(2, 4))
def test_merchants_get_no_texts_that_their_windows_do_not_look_at(pairs: list[tuple[str, str]], workers: int) -> None:
    payments = Transactions.of([pay(str(i), account=a, merchant=m, day=i) for i, (a, m) in enumerate(pairs)])
    whole = [part for part in Dealer(workers).deal(payments, [], 7) if isinstance(part, ForMerchants)]
    dealer = Dealer(workers, ["device_id"])
    slim = [part for part in dealer.deal(payments, [], 7) if isinstance(part, ForMerchants)]
    assert [part.key for part in slim] == [part.key for part in whole]
    for part, other in zip(slim, whole, strict=True):
        found, expected = part.transactions, other.transactions
        assert found.merchant_id == expected.merchant_id
        assert found.device_id == expected.device_id
        assert found.timestamp.tolist() == expected.timestamp.tolist()
        assert found.amount.tolist() == expected.amount.tolist()
        assert len(found) == len(expected)
        assert not any((found.transaction_id, found.account_id, found.transaction_type, found.location))


def test_columns_are_the_fields() -> None:
    payments = [pay(str(i), day=i) for i in range(5)]
    columns = Transactions.of(payments)
    assert columns.at(np.array([3, 1])).timestamp.tolist() == [payments[3].timestamp, payments[1].timestamp]
    assert columns.between(1, 3).transaction_id == ["1", "2"]
    assert len(columns.between(1, 3)) == 2
