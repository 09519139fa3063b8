"""What ``just bench-quality`` writes and the training report shows: models held against each other on one history.

The form of the file stands here once; ``bench.quality`` writes through it. A figure that has no value is null.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import polars as pl

from features.errors import InvalidSetting

FILE: Final = Path("artifacts/bench/quality.json")

Role = Literal["champion", "baseline"]


class History(msgspec.Struct, frozen=True):
    """What a history is known by, whatever its file is called; ``amount`` is the sum in minor units."""

    name: str
    handbook: bool
    transactions: int
    frauds: int
    amount: int
    first: datetime
    last: datetime

    def is_this(self, history: pl.DataFrame) -> bool:
        """Whether the canonical history is the one that the figures are of."""
        known = {name: getattr(self, name) for name in ("transactions", "frauds", "amount", "first", "last")}
        return known == identity(history)


def identity(history: pl.DataFrame) -> dict[str, Any]:
    """Of a canonical history with at least one row what ``History`` recognises it by."""
    return {
        "transactions": history.height,
        "frauds": int(history["is_fraud"].sum()),
        "amount": int(history["amount"].sum()),
        "first": history["timestamp"][0],
        "last": history["timestamp"][-1],
    }


class Figure(msgspec.Struct, frozen=True):
    """A metric of one model: by week, their mean, and their deviation as a population."""

    mean: float | None
    deviation: float | None
    weeks: list[float | None]


class Row(msgspec.Struct, frozen=True):
    """A model with its figures by metric, measured and published; ``candidates`` are those that it was, by week.

    The champion's and the baseline's roles are those of the two models that ``Difference`` is of.
    """

    model: str
    features: str
    learns: str
    figures: dict[str, Figure]
    published: dict[str, tuple[float, ...]]
    candidates: list[str]
    fit_seconds: float | None
    row_microseconds: float | None
    role: Role | None


class Block(msgspec.Struct, frozen=True):
    """The rows that were judged on the same weeks, known by their first days."""

    title: str
    weeks: list[date]
    rows: list[Row]


class Difference(msgspec.Struct, frozen=True):
    """The champion less the baseline, week by week, in one metric; both learnt from the same days."""

    metric: str
    by_week: list[float | None]
    mean: float | None
    deviation: float | None
    wins: int
    losses: int


class Ablated(msgspec.Struct, frozen=True):
    """Average precision by validation week: of all features, of all but the group, of the group alone."""

    group: str
    features: int
    everything: list[float]
    without: list[float]
    alone: list[float]

    def __post_init__(self) -> None:
        """Raises ``ValueError``, which msgspec reports as a fault of the file."""
        if not len(self.everything) == len(self.without) == len(self.alone) > 0:
            raise ValueError(f"group {self.group!r} lacks weeks")


class BookParameters(msgspec.Struct, frozen=True, rename={"source": "from"}):
    """The book's models' parameters, by row and metric, and where they come from."""

    source: str
    chosen: dict[str, dict[str, dict[str, float | int]]]


class Blocks(msgspec.Struct, frozen=True):
    """The tables; a short history has no validation weeks."""

    chapter_3: Block
    test: Block
    validation: Block | None


class Differences(msgspec.Struct, frozen=True):
    """By block."""

    test: list[Difference]
    validation: list[Difference] = []


class Quality(msgspec.Struct, frozen=True):
    """The whole file. ``fingerprint`` is of the features that our models had."""

    created_at: datetime
    history: History
    fingerprint: str
    label_delay_days: int
    seed: int
    book_parameters: BookParameters
    blocks: Blocks
    ours_less_baseline: Differences
    ablation: list[Ablated]

    def encoded(self) -> bytes:
        """The file's bytes."""
        return msgspec.json.format(msgspec.json.encode(self))


def read(path: Path) -> Quality | None:
    """The file's content; None where there is no file. Raises ``InvalidSetting`` for one that cannot be used."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Quality)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}; remove it, or run `just bench-quality` again") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{path} is not what `just bench-quality` writes ({error}); run it again"
        raise InvalidSetting(message) from error
