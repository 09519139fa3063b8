"""What features cost as windows and states grow, and what states weigh: the flow's own code, without Kafka.

    python -m bench.growth ENTITY STATES EVENTS

As a process of its own it makes so many states of an account or a merchant, with so many events each, and prints what
they weigh.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

import msgspec
import numpy as np

from bench.processes import usage
from bench.speed_results import Growth, Holding
from features.definitions import DAY, Entity, Feature, feature_set
from features.state import EntityStates, Plan
from features.transaction import MICROSECOND, Transaction
from flows.records import Transactions

DAYS: Final = (1, 7, 30, 90)
EVENTS: Final = (10, 100, 1000)
BEGIN: Final = 1_750_000_000_000_000
BATCH: Final = 1_000  # transactions at once
MEASURED: Final = 10_000  # transactions, after those that fill the state
REPEATS: Final = 3
TYPICAL: Final = 60  # events of an account or a merchant
WEIGHED: Final = 10_000  # states whose mean weight is taken


class Subject:
    """The flow's states of one kind of entity."""

    def __init__(self, features: Sequence[Feature], entity: Entity) -> None:
        self._states = EntityStates(Plan(features, entity))

    def step(self, keys: Sequence[str], transactions: Sequence[Transaction]) -> None:
        """Features of transactions of these accounts or merchants, which then belong to the past."""
        columns = Transactions.of(transactions)
        plan = self._states.plan
        out = np.empty((len(keys), len(plan.features)), np.float32)
        texts = [getattr(columns, field) for field in plan.fields]
        self._states.take(keys, columns.timestamp, columns.amount, texts, out)
        self._states.forget(int(columns.timestamp[-1]) - DAY // MICROSECOND)


def shortened(features: Sequence[Feature], days: int) -> list[Feature]:
    """As many features, none of which looks back farther."""
    longest = timedelta(days=days)

    def short(span: timedelta | None) -> timedelta | None:
        return None if span is None else min(span, longest)

    return [replace(f, window=short(f.window), reference=short(f.reference)) for f in features]


def cost(days: int, events: int, measured: int = MEASURED) -> Growth:
    """CPU of an account's features where the longest windows are so many days and hold so many events."""
    best = float("inf")
    for _ in range(REPEATS):
        subject = Subject(shortened(feature_set(), days), Entity.ACCOUNT)
        coming = transactions(days * (DAY // MICROSECOND) // events)
        keys = [f"account-{number}" for number in range(BATCH)]
        # All accounts have the same transactions, each account one in each batch.
        for _ in range(events):
            subject.step(keys, [next(coming)] * BATCH)
        counted = [[next(coming)] * BATCH for _ in range(measured // BATCH)]
        began = time.process_time()
        for batch in counted:
            subject.step(keys, batch)
        best = min(best, time.process_time() - began)
    return Growth(days=days, events=events, microseconds=best / (measured // BATCH * BATCH) * 1e6)


def transactions(step: int) -> Iterator[Transaction]:
    """Of one account or merchant, so many microseconds apart."""
    number = 0
    while True:
        yield Transaction(
            f"t{number}",
            "account",
            f"merchant-{number * 7 % 20}",
            100 + number * 7919 % 20_000,
            BEGIN + number * step,
            "online" if number % 3 else "in_store",
            f"place-{number % 5}",
            f"device-{number % 11 // 10}",
        )
        number += 1


def weight(entity: Entity, states: int, events: int) -> Holding:
    """What so many states weigh, from the memory of a process that makes them."""
    words = [sys.executable, "-m", "bench.growth", entity.value, str(states), str(events)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Holding)


def main() -> int:
    """The process; see above."""
    entity, states, events = Entity(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    subject = Subject(feature_set(), entity)
    step = 30 * (DAY // MICROSECOND) // max(events, 1)
    coming = transactions(step)
    shared = [next(coming) for _ in range(events)]
    Subject(feature_set(), entity).step(["first"], shared[:1] or [next(coming)])  # loads the compiled code
    before = usage_of_self()
    keys = [f"{entity.value}-{number}" for number in range(states)]
    for transaction in shared:
        for begin in range(0, states, BATCH):
            some = keys[begin : begin + BATCH]
            subject.step(some, [transaction] * len(some))
    after = usage_of_self()
    holding = Holding(
        entity=entity.value, states=states, events=events, bytes_each=(after - before) / states, process=after
    )
    sys.stdout.buffer.write(msgspec.json.encode(holding))
    return 0


def usage_of_self() -> int:
    """Bytes of memory that this process holds."""
    return usage(os.getpid()).memory


if __name__ == "__main__":
    sys.exit(main())
