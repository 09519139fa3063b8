"""What others published on the Handbook's data (``published.toml``), and whether a history is that data."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Final, Literal

import msgspec
import polars as pl

from training.evaluate import CARDS

FILE: Final = Path(__file__).with_name("published.toml")
METRICS: Final = ("auc_roc", "average_precision", f"card_precision_{CARDS}")

Learner = Literal["logistic_regression", "random_forest", "xgboost", "balanced_bagging"]
Parameters = dict[str, float | int]
Figures = dict[str, tuple[float, ...]]  # metric -> mean, and population deviation where it is of four weeks


class PublishedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's published figures. ``learner`` is what reproduces it here, with the parameters ``chosen`` by metric."""

    model: str
    table: str
    block: Literal["chapter_3", "four_weeks"]
    learner: Learner | None = None
    chosen: dict[str, Parameters] = {}
    validation: Figures = {}
    test: Figures = {}


class PublishedHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the published data is known by, whatever its file is called."""

    transactions: int
    frauds: int
    first: date
    last: date
    first_test: date

    def is_this(self, history: pl.DataFrame) -> bool:
        """Whether the canonical history is the one that the figures are of."""
        first, last = history["timestamp"][0], history["timestamp"][-1]
        return (history.height, history["is_fraud"].sum(), first.date(), last.date()) == (
            self.transactions,
            self.frauds,
            self.first,
            self.last,
        )

    @property
    def opening(self) -> datetime:
        """When the first test week begins."""
        return datetime.combine(self.first_test, time(), UTC)


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    history: PublishedHistory
    rows: list[PublishedRow]


def published() -> Published:
    """The file's content."""
    return msgspec.toml.decode(FILE.read_bytes(), type=Published)
