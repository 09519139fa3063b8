"""Transactions for the speed benchmark: the same for every contender, drawn from a seed, encoded once.

Every account keeps to merchants whose own customers come through the same Kafka partition. So each account and each
merchant meets its events in one order, whichever way a contender reads several partitions, and all can be held to the
same scores. Instants are distinct for the same reason. The first events are of all accounts in turn, so that all of
them are live early; from there on accounts are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
import polars as pl
from confluent_kafka import Producer
from numpy.typing import NDArray

from features.history import INSTANT
from features.transaction import rfc3339

BEGIN: Final = 1_750_000_000_000_000  # microseconds since 1970
DAY: Final = 86_400_000_000
A_DAY: Final = 2  # transactions that an account makes a day, as in the Handbook's simulator
PARTITIONS: Final = 4  # as the flow's default
FAVOURITES: Final = 20  # merchants of an account
TYPES: Final = ("in_store", "online", "contactless", "recurring")
PLACES: Final = 40
_FLUSH: Final = 50_000

Integers = NDArray[np.int64]
_encode = msgspec.json.Encoder().encode


class Record(NamedTuple):
    """A transaction as it goes to Kafka."""

    key: bytes
    value: bytes
    partition: int


class Drawn(NamedTuple):
    """Transactions as columns, [n] each; ``amount`` in minor units, the rest as numbers to be named."""

    account: Integers
    merchant: Integers
    amount: Integers
    device: Integers
    place: Integers


@dataclass(frozen=True)
class Traffic:
    """Transactions of so many accounts; the first m of n are those of any other n. Half as many merchants.

    ``begin``: the event time of the first one.
    """

    accounts: int
    begin: int = BEGIN
    seed: int = 7
    partitions: int = PARTITIONS

    @property
    def step(self) -> int:
        """Microseconds of event time between two transactions."""
        return DAY // (A_DAY * self.accounts)

    @cached_property
    def partition_of(self) -> list[int]:
        """The partition of each account, which is the one that Kafka's client would choose."""
        return [crc32(_account(a)) % self.partitions for a in range(self.accounts)]

    def instant(self, number: int) -> int:
        """When a transaction happens, in microseconds since 1970."""
        return self.begin + number * self.step

    def draw(self, n: int) -> Drawn:
        """The first n."""
        # A generator for each column: whatever n is, a column begins alike.
        of = [np.random.default_rng([self.seed, column]) for column in range(7)]
        account = of[0].integers(self.accounts, size=n)
        turns = min(n, self.accounts)
        account[:turns] = of[1].permutation(self.accounts)[:turns]
        merchants = max(1, self.accounts // 2 // self.partitions)  # of one partition
        favourite = of[2].integers(FAVOURITES, size=n)
        region = np.array(self.partition_of)[account]
        merchant = (account * 31 + favourite * 7) % merchants * self.partitions + region
        typical = 5 + account * 37 % 120
        amount = np.rint(of[3].gamma(2.0, size=n) * typical * 50).astype(np.int64) + 1
        device = account * 2 + (of[4].random(n) < 0.1)
        away = of[5].random(n) < 0.08
        place = np.where(away, of[6].integers(PLACES, size=n), account % PLACES)
        return Drawn(account, merchant, amount, device, place)

    def records(self, n: int, begin: int = 0, instant: Callable[[int], int] | None = None) -> Iterator[Record]:
        """The transactions from ``begin`` to below n, encoded; ``instant``: when each happens, if not as usual."""
        happens = instant or self.instant
        columns = (column[begin:].tolist() for column in self.draw(n))
        for number, (account, merchant, amount, device, place) in enumerate(zip(*columns, strict=True), begin):
            key = _account(account)
            message = {
                "transaction_id": f"t{number}",
                "account_id": key.decode(),
                "merchant_id": f"m{merchant}",
                "amount": amount / 100,
                "timestamp": rfc3339(happens(number)),
                "transaction_type": TYPES[merchant % len(TYPES)],
                "location": f"place-{place}",
                "device_id": f"device-{device}",
            }
            yield Record(key, _encode(message), self.partition_of[account])

    def history(self, n: int) -> pl.DataFrame:
        """The first n in the form of ``features.history``: what the batch computes the truth from."""
        drawn = self.draw(n)
        merchant = drawn.merchant.tolist()
        instants = [self.instant(number) for number in range(n)]
        return pl.DataFrame(
            {
                "transaction_id": [f"t{number}" for number in range(n)],
                "account_id": [_account(a).decode() for a in drawn.account.tolist()],
                "merchant_id": [f"m{m}" for m in merchant],
                "amount": drawn.amount,
                "timestamp": pl.Series(instants, dtype=pl.Int64).cast(INSTANT),
                "is_fraud": np.zeros(n, bool),
                "transaction_type": [TYPES[m % len(TYPES)] for m in merchant],
                "location": [f"place-{p}" for p in drawn.place.tolist()],
                "device_id": [f"device-{d}" for d in drawn.device.tolist()],
                "labelled_at": pl.Series([None] * n, dtype=INSTANT),
            }
        )

    def describe(self, n: int) -> str:
        """In words, for the page."""
        last = datetime.fromtimestamp(self.instant(n) / 1e6, UTC)
        return f"{self.accounts:,} accounts, up to {n:,} transactions, event time to {last:%Y-%m-%d}"


def number_of(transaction_id: str) -> int:
    """The number of a transaction in its traffic."""
    return int(transaction_id[1:])


def send(bootstrap: str, topic: str, traffic: Traffic, n: int, begin: int = 0) -> None:
    """Writes the transactions from ``begin`` to below n to the topic, and waits until Kafka has them."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": "true",
            "linger.ms": "20",
            "compression.type": "lz4",
            "queue.buffering.max.messages": str(2 * _FLUSH),
        }
    )
    for nth, (key, value, partition) in enumerate(traffic.records(n, begin)):
        producer.produce(topic, value, key, partition)
        if nth % _FLUSH == _FLUSH - 1:
            producer.flush()
        elif nth % 1000 == 0:
            producer.poll(0)
    producer.flush()


def _account(number: int) -> bytes:
    return b"a%d" % number
