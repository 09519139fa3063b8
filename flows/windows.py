"""The keyed steps: an account's windows, a merchant's windows, and the two gathered again by transaction.

The account's and the merchant's step both get the arrivals straight from the source, each in the order of reading, and
work side by side. So what they compute does not depend on how fast the other one is, nor on the number of workers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final, Generic, NamedTuple, TypeVar
from zlib import crc32

from bytewax.operators import StatefulBatchLogic

from features.definitions import Entity, Feature
from features.measures import own_features
from features.state import EntityState, Plan
from features.transaction import MICROSECOND, Label, Transaction
from flows import metrics
from flows.duplicates import RecentIds
from flows.idle import IdleKeys
from flows.records import AccountPart, Arrival, Candidate, MerchantPart, Rejection
from flows.settings import Settings

GATHER_KEYS: Final = 64
ID_END: Final = b"\xfe"  # occurs in no UTF-8 text

Part = TypeVar("Part", bound=AccountPart | MerchantPart)


class Saved(NamedTuple):
    """The recovery state of one account or merchant; ``newest``: the newest instant that is of use in it."""

    key: str
    state: bytes
    recent: tuple[bytes, bytes]
    newest: int


class EntityLogic(StatefulBatchLogic[Arrival | None, Part, Saved], Generic[Part]):
    """The windows of one account or merchant; a value of ``None`` only asks whether they are still of use.

    What was saved stays packed until its key comes up: a start has all keys to bring back, and most may sleep on.
    """

    def __init__(self, step: EntityStep[Part], saved: Saved | None) -> None:
        self._step = step
        self._saved = saved
        self._key = saved.key if saved else ""
        if saved:
            step.idle.touch(saved.key, saved.newest)
        else:
            self._state = EntityState(step.plan)
            self._recent = RecentIds()

    def on_batch(self, values: list[Arrival | None]) -> tuple[Iterable[Part], bool]:
        """A part for every transaction, in the order of the values; drops the state when it is of no more use."""
        parts: list[Part] = []
        for arrival in values:
            if arrival is None:
                continue
            if self._saved:
                self._unpack(self._saved)
            self._key = self._step.key(arrival.event)
            if isinstance(arrival.event, Label):
                self._state.update_label(arrival.event)
            else:
                parts.append(self._part(arrival, arrival.event))
            self._state.forget(arrival.watermark)
            self._recent.forget(arrival.watermark - self._step.memory)
            self._step.idle.advance(arrival.watermark)
        newest = self._newest()
        if self._step.idle.is_past(newest):
            self._step.idle.forget(self._key)
            metrics.IDLE.labels(self._step.plan.entity).inc()
            return parts, StatefulBatchLogic.DISCARD
        self._step.idle.touch(self._key, newest)
        return parts, StatefulBatchLogic.RETAIN

    def snapshot(self) -> Saved:
        """The windows and the recent ids, as bytes."""
        return self._saved or Saved(self._key, self._state.pack(), self._recent.pack(), self._newest())

    def _unpack(self, saved: Saved) -> None:
        self._state = EntityState.unpack(self._step.plan, saved.state)
        self._recent = RecentIds(*saved.recent)
        self._saved = None

    def _newest(self) -> int:
        return self._saved.newest if self._saved else max(self._state.newest(), self._recent.newest())

    @abstractmethod
    def _part(self, arrival: Arrival, transaction: Transaction) -> Part: ...

    def _seen(self, identity: bytes, arrival: Arrival) -> bool:
        return self._recent.seen(identity, arrival.watermark - self._step.memory)

    def _take_in(self, identity: bytes, transaction: Transaction) -> None:
        """From now on the transaction belongs to the past."""
        self._state.update(transaction)
        self._recent.add(identity, transaction.timestamp)


class AccountLogic(EntityLogic[AccountPart]):
    """Decides on duplicates and late arrivals: an account's messages all come through one Kafka partition."""

    def _part(self, arrival: Arrival, transaction: Transaction) -> AccountPart:
        identity = transaction.transaction_id.encode()
        if self._seen(identity, arrival):
            return AccountPart(arrival.sequence, transaction, None, None)
        if arrival.too_late:
            return AccountPart(arrival.sequence, transaction, None, arrival.too_late)
        features = own_features(self._step.features, transaction) + self._state.get(transaction)
        self._take_in(identity, transaction)
        return AccountPart(arrival.sequence, transaction, features, None)


class MerchantLogic(EntityLogic[MerchantPart]):
    """Counts each transaction once, as the account's step does, without waiting for its word.

    An id that an account uses again for another merchant is a duplicate all the same, but that merchant counts it.
    """

    def _part(self, arrival: Arrival, transaction: Transaction) -> MerchantPart:
        features = self._state.get(transaction)
        identity = transaction.account_id.encode() + ID_END + transaction.transaction_id.encode()
        if not arrival.too_late and not self._seen(identity, arrival):
            self._take_in(identity, transaction)
        return MerchantPart(arrival.sequence, transaction.account_id, features)


class EntityStep(Generic[Part]):
    """What the keys of one step share, and the builder of their logic."""

    def __init__(
        self, entity: Entity, logic: type[EntityLogic[Part]], features: Sequence[Feature], settings: Settings
    ) -> None:
        self.features = features
        self.plan = Plan(features, entity)
        # An id is needed until a repeat of it would be too late, which the watermark says; from there on by choice.
        self.memory = (settings.duplicate_horizon - settings.allowed_lateness) // MICROSECOND
        self.idle = IdleKeys(max(self.plan.reach, self.memory))
        self._by_account = entity is Entity.ACCOUNT
        self._logic = logic

    def __call__(self, saved: Saved | None) -> EntityLogic[Part]:
        """The logic of one key, anew or as it was saved."""
        return self._logic(self, saved)

    def key(self, event: Transaction | Label) -> str:
        """Whose windows the event belongs to."""
        return event.account_id if self._by_account else event.merchant_id


class Gather(StatefulBatchLogic[AccountPart | MerchantPart, Candidate | Rejection, None]):
    """Puts the two parts of each transaction together.

    Both come in the epoch in which the transaction was read, so at the end of an epoch nothing is pending and there is
    nothing to save.
    """

    def __init__(self, _saved: None) -> None:
        self._pending: dict[int, AccountPart | MerchantPart] = {}

    def on_batch(self, values: list[AccountPart | MerchantPart]) -> tuple[Iterable[Candidate | Rejection], bool]:
        """Each transaction that is complete, in the order of reading, as a candidate or a rejection.

        A duplicate is counted, and goes.
        """
        complete: list[tuple[int, Candidate | Rejection]] = []
        for part in values:
            other = self._pending.pop(part.sequence, None)
            if other is None:
                self._pending[part.sequence] = part
                continue
            account, merchant = (part, other) if isinstance(part, AccountPart) else (other, part)
            assert isinstance(account, AccountPart)
            if account.rejection:
                complete.append((part.sequence, account.rejection))
            elif account.features is None:
                metrics.DUPLICATES.inc()
            else:
                assert isinstance(merchant, MerchantPart)
                complete.append((part.sequence, Candidate(account.transaction, account.features + merchant.features)))
        complete.sort(key=itemgetter(0))
        return [item for _, item in complete], StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        """Nothing, as the class says."""
        assert not self._pending


def gather_key(keyed: tuple[str, AccountPart | MerchantPart]) -> tuple[str, AccountPart | MerchantPart]:
    """A part under the key where it meets the other one: one of a few, the same for all transactions of an account."""
    part = keyed[1]
    account_id = part.transaction.account_id if isinstance(part, AccountPart) else part.account_id
    return f"{crc32(account_id.encode()) % GATHER_KEYS:02d}", part
