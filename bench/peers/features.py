"""The features of a transaction for the peers, from the states that a user would keep in any of the frameworks.

The one place where they meet the code of the states: a Python object for an account or a merchant.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers.measures import own_features
from bench.peers.state import EntityState, Plan
from features.definitions import DAY, Entity, Feature
from features.transaction import MICROSECOND, Transaction

LATENESS = DAY // MICROSECOND  # as the flow's default


class PeerFeatures:
    """All features, in the model's order: those of the transaction itself, its account's, its merchant's."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self._features = features
        self._plans = {entity: Plan(features, entity) for entity in (Entity.ACCOUNT, Entity.MERCHANT)}

    def new(self, entity: Entity) -> EntityState:
        """The state of an account or a merchant of which nothing is known yet."""
        return EntityState(self._plans[entity])

    def restored(self, entity: Entity, packed: bytes) -> EntityState:
        """A state from the bytes of its ``pack``."""
        return EntityState.unpack(self._plans[entity], packed)

    def of_account(self, state: EntityState, transaction: Transaction) -> list[float]:
        """The transaction's own features and the account's, who then has it in the past."""
        return own_features(self._features, transaction) + _step(state, transaction)

    def of_merchant(self, state: EntityState, transaction: Transaction) -> list[float]:
        """The merchant's features; the transaction is then in the merchant's past."""
        return _step(state, transaction)


def _step(state: EntityState, transaction: Transaction) -> list[float]:
    values = state.get(transaction)
    state.update(transaction)
    state.forget(transaction.timestamp - LATENESS)
    return values
