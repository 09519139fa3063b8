"""The formulas of the features that ``bench.peers.state`` computes; ``features.windowed`` has the same ones compiled.

Both do the same float64 operations in the same order on the same exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from features.definitions import Aggregate, Entity, Feature
from features.transaction import Transaction

NAN: Final = math.nan
_DAY: Final = 86_400_000_000
_HOUR: Final = 3_600_000_000

# (n, sum, sum of squares, this amount), in minor units -> value
Measure = Callable[[int, int, int, int], float]


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


def _count(n: int, _total: int, _squares: int, _amount: int) -> float:
    return float(n)


def _sum(_n: int, total: int, _squares: int, _amount: int) -> float:
    return float(total) / 100.0


def _mean(n: int, total: int, _squares: int, _amount: int) -> float:
    return float(total) / float(n) / 100.0 if n else NAN


def _std(n: int, total: int, squares: int, _amount: int) -> float:
    return _std_minor(n, total, squares) / 100.0


def _ratio(n: int, total: int, _squares: int, amount: int) -> float:
    return float(amount) / (float(total) / float(n)) if total else NAN


def _zscore(n: int, total: int, squares: int, amount: int) -> float:
    std = _std_minor(n, total, squares)
    return (float(amount) - float(total) / float(n)) / std if std > 0.0 else NAN


def trend(n: int, squares: int, reference_n: int, reference_total: int) -> float:
    """TREND, of the short window's n and squares and the longer window's n and total, in minor units."""
    if not n or not reference_total:
        return NAN
    return math.sqrt(float(squares) / float(n)) / (float(reference_total) / float(reference_n))


def _std_minor(n: int, total: int, squares: int) -> float:
    # n * sum(x^2) - sum(x)^2, exact in integers, is n * (n - 1) times the sample variance.
    return math.sqrt(float(n * squares - total * total) / float(n * (n - 1))) if n > 1 else NAN


MEASURES: Final[dict[Aggregate, Measure]] = {
    Aggregate.COUNT: _count,
    Aggregate.SUM: _sum,
    Aggregate.MEAN: _mean,
    Aggregate.STD: _std,
    Aggregate.RATIO: _ratio,
    Aggregate.ZSCORE: _zscore,
}
