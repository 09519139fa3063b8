"""Which days of a history train, validate and test a model, with the label delay respected."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Period:
    """From ``start`` (included) to ``end`` (excluded), UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Split:
    """The days of one training; ``describe`` says them in words."""

    train: Period
    validation: Period
    test: Period
    label_delay: timedelta

    def describe(self) -> list[tuple[str, str]]:
        """Rows of (label, dates), in the order of time."""
        return [
            ("training", f"{self.train.start:%Y-%m-%d} to {self.train.end:%Y-%m-%d}"),
            ("validation", f"{self.validation.start:%Y-%m-%d} to {self.validation.end:%Y-%m-%d}"),
            ("test", f"{self.test.start:%Y-%m-%d} to {self.test.end:%Y-%m-%d}"),
        ]
