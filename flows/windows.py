"""The keyed steps: a shard of the merchants' windows, and a shard of the accounts', where both features come together.

Both get what was read straight from the reader, in the order of reading, and work side by side. So what they compute
does not depend on how fast the other one is, nor on the number of workers. Their states are not saved: at a start the
reader gives back what they were made of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from bytewax.operators import StatefulBatchLogic

from features.definitions import Entity, Feature
from features.measures import own
from features.recent import PLACES, RecentIds
from features.state import EntityStates, Plan
from features.transaction import Transaction
from flows import metrics
from flows.records import Candidates, ForAccounts, ForMerchants, MerchantRows, Rows, Transactions

KEEP: Final = StatefulBatchLogic.RETAIN


class Windows:
    """The states of one shard, of accounts or of merchants."""

    def __init__(self, features: Sequence[Feature], entity: Entity) -> None:
        plan = Plan(features, entity)
        self._fields = plan.fields
        self._id = f"{entity}_id"
        self.states = EntityStates(plan)

    def show(self, entity: Entity) -> None:
        """From now on these are the states that the metrics tell of."""
        metrics.STATE_ENTRIES.read(lambda: len(self.states), entity)
        metrics.STATE_BYTES.read(lambda: self.states.nbytes, entity)

    def take(self, transactions: Transactions, out: Rows | None) -> None:
        """Writes their features to ``out``, if it is given, one after the other, and takes them in."""
        keys = getattr(transactions, self._id)
        texts = [getattr(transactions, field) for field in self._fields]
        if out is None:
            self.states.update(keys, transactions.timestamp, transactions.amount, texts)
        else:
            self.states.take(keys, transactions.timestamp, transactions.amount, texts, out)

    def forget(self, watermark: int) -> None:
        """Drops what no window reaches any more."""
        self.states.forget(watermark)


def make_ready(features: Sequence[Feature]) -> None:
    """Loads the compiled code, or compiles it where that was never done: a second, or ten, before anything waits."""
    made_up = Transactions.of([Transaction("t", "a", "m", 1, 1)])
    for entity in (Entity.ACCOUNT, Entity.MERCHANT):
        windows = Windows(features, entity)
        for _ in range(2):
            windows.take(made_up, np.empty((1, sum(f.entity is entity for f in features)), np.float32))
            windows.forget(0)
            windows.states.compact()
    many = np.arange(PLACES)  # more than a page takes
    RecentIds().repeats(many, many, many, np.zeros(len(many), np.bool_), 0)


class MerchantWindows(StatefulBatchLogic[ForMerchants, MerchantRows, None]):
    """One shard of the merchants; gives the features of each batch to the shards of its accounts."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self._width = sum(f.entity is Entity.MERCHANT for f in features)
        self._windows = Windows(features, Entity.MERCHANT)
        self._windows.show(Entity.MERCHANT)

    def on_batch(self, values: list[ForMerchants]) -> tuple[Iterable[MerchantRows], bool]:
        """The features of the transactions, in the order of reading, labels among them."""
        rows: list[MerchantRows] = []
        for batch in values:
            found = None if batch.past else np.empty((len(batch.transactions), self._width), np.float32)
            self._take(batch, found)
            self._windows.forget(batch.watermark)
            if found is not None:
                rows += (MerchantRows(h.key, batch.number, h.there, found[h.here]) for h in batch.homes)
        return rows, KEEP

    def snapshot(self) -> None:
        """Nothing, as the module says."""

    def _take(self, batch: ForMerchants, found: Rows | None) -> None:
        transactions, since = batch.transactions, 0
        for until, label in [*batch.labels, (len(transactions), None)]:
            if until > since:
                part = transactions if until - since == len(transactions) else transactions.between(since, until)
                self._windows.take(part, None if found is None else found[since:until])
                since = until
            if label is not None:
                self._windows.states.label(label.merchant_id, label)


class AccountWindows(StatefulBatchLogic[ForAccounts | MerchantRows, Candidates, None]):
    """One shard of the accounts; puts the merchants' features beside its own and the transactions' own.

    Batches leave in the order of reading. All parts of a batch come in the epoch in which it was read, so at the end of
    an epoch nothing is pending and there is nothing to save.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._features = features
        of = [f.entity for f in features]
        self._own, self._merchants = of.count(Entity.TRANSACTION), len(of) - of.count(Entity.MERCHANT)
        self._windows = Windows(features, Entity.ACCOUNT)
        self._windows.show(Entity.ACCOUNT)
        self._pending: deque[Pending] = deque()
        self._early: dict[int, list[MerchantRows]] = {}  # of batches that are still to come

    def on_batch(self, values: list[ForAccounts | MerchantRows]) -> tuple[Iterable[Candidates], bool]:
        """The batches that are complete, and have none before them that is not."""
        for value in values:
            if isinstance(value, ForAccounts):
                self._take(value)
            elif (pending := next((p for p in self._pending if p.number == value.number), None)) is not None:
                self._put(pending, value)
            else:
                self._early.setdefault(value.number, []).append(value)
        complete: list[Candidates] = []
        while self._pending and not self._pending[0].missing:
            complete.append(self._pending.popleft().candidates)
        return complete, KEEP

    def snapshot(self) -> None:
        """Nothing, as the class says."""
        assert not self._pending
        assert not self._early

    def _take(self, batch: ForAccounts) -> None:
        transactions = batch.transactions
        if batch.past:
            self._windows.take(transactions, None)
        else:
            rows = np.empty((len(transactions), len(self._features)), np.float32)
            own(self._features, transactions.timestamp, transactions.amount, rows[:, : self._own])
            self._windows.take(transactions, rows[:, self._own : self._merchants])
            pending = Pending(batch.number, Candidates(transactions, rows), len(transactions))
            self._pending.append(pending)
            for part in self._early.pop(batch.number, ()):
                self._put(pending, part)
        self._windows.forget(batch.watermark)

    def _put(self, pending: Pending, part: MerchantRows) -> None:
        pending.candidates.features[part.there, self._merchants :] = part.features
        pending.missing -= len(part.there)


class Pending:
    """A batch that waits for merchants' features; ``missing``: of how many transactions."""

    def __init__(self, number: int, candidates: Candidates, missing: int) -> None:
        self.number = number
        self.candidates = candidates
        self.missing = missing
