"""The features that need nothing but the transaction itself, of one and of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.definitions import Aggregate, Entity, Feature
from features.transaction import Transaction

_DAY: Final = 86_400_000_000
_HOUR: Final = 3_600_000_000


def own_features(features: Iterable[Feature], transaction: Transaction) -> list[float]:
    """The transaction's own features, in the order given."""
    hour = transaction.timestamp // _HOUR % 24
    values = {
        Aggregate.AMOUNT: transaction.amount / 100.0,
        Aggregate.HOUR: float(hour),
        Aggregate.WEEKEND: float((transaction.timestamp // _DAY + 3) % 7 >= 5),  # 1970-01-01 was a Thursday
        Aggregate.NIGHT: float(hour <= 6),
    }
    return [values[f.aggregate] for f in features if f.entity is Entity.TRANSACTION]


def own(
    features: Iterable[Feature],
    instants: NDArray[np.int64],
    amounts: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """``own_features`` of a batch, into ``out`` [rows, own features]."""
    hours = instants // _HOUR % 24
    for column, feature in enumerate(f for f in features if f.entity is Entity.TRANSACTION):
        match feature.aggregate:
            case Aggregate.AMOUNT:
                out[:, column] = amounts / 100.0
            case Aggregate.HOUR:
                out[:, column] = hours
            case Aggregate.WEEKEND:
                out[:, column] = (instants // _DAY + 3) % 7 >= 5
            case Aggregate.NIGHT:
                out[:, column] = hours <= 6
            case _:
                raise ValueError(f"{feature.name}: {feature.aggregate} needs a window")
