"""The features that need nothing but the transaction itself, of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.definitions import Aggregate, Entity, Feature

_DAY: Final = 86_400_000_000
_HOUR: Final = 3_600_000_000


def own(
    features: Iterable[Feature],
    instants: NDArray[np.int64],
    amounts: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """The transactions' own features, in the order given, into ``out`` [rows, own features]."""
    hours = instants // _HOUR % 24
    for column, feature in enumerate(f for f in features if f.entity is Entity.TRANSACTION):
        match feature.aggregate:
            case Aggregate.AMOUNT:
                out[:, column] = amounts / 100.0
            case Aggregate.HOUR:
                out[:, column] = hours
            case Aggregate.WEEKEND:
                out[:, column] = (instants // _DAY + 3) % 7 >= 5  # 1970-01-01 was a Thursday
            case Aggregate.NIGHT:
                out[:, column] = hours <= 6
            case _:
                raise ValueError(f"{feature.name}: {feature.aggregate} needs a window")
