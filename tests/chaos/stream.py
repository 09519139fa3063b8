"""What the producer sends: an endless, seeded stream of transactions and labels, good and bad.

Everything about a record follows from the seed, its event time too; only when it is sent is a matter of the clock.

So that an oracle can know the features exactly, a merchant is only paid by accounts whose records fall into one and the
same partition of ``transactions``: within a partition the order of reading is that of the log, across partitions it is
a matter of luck.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Final, NamedTuple
from zlib import crc32

from features.transaction import Label, Transaction, microseconds, rfc3339
from tests.flows.traffic import DAY, Sent, label_message, transaction_message

BEGIN: Final = microseconds(datetime(2018, 4, 1, tzinfo=UTC))
LATENESS: Final = DAY  # the flow's own default
REPEATED_WITHIN: Final = 1.9  # days, a little less than the flow's duplicate horizon
LABELLED: Final = 0.2  # of all transactions
SLOWEST_LABEL: Final = 12 * DAY

# How often a record is something else than a new transaction in order.
AT_ONCE: Final = 0.04  # at the very instant of the one before it
OUT_OF_ORDER: Final = 0.05
TOO_LATE: Final = 0.02
AGAIN: Final = 0.05
GARBAGE: Final = 0.02


class Item(NamedTuple):
    """A message on its way in; ``purpose``: transactions or labels; ``instant``: the event time it is sent at."""

    purpose: str
    sent: Sent
    instant: int
    label: Label | None = None


class _Part:
    """What happens in one partition of ``transactions``."""

    def __init__(self) -> None:
        self.accounts: list[str] = []
        self.merchants: list[str] = []
        self.lead = 0  # the newest event time sent
        self.sent: deque[Transaction] = deque(maxlen=400)


class Stream:
    """An endless iterator of ``Item``.

    ``step``: microseconds of event time between two transactions, in the mean. ``early``: microseconds of event time
    that a label is sent ahead of the instant from which it counts.
    """

    def __init__(self, seed: int, partitions: int, step: float, early: int, accounts: int = 600) -> None:
        self._rng = Random(seed)
        self._step = step
        self._early = early
        self._clock = BEGIN
        self._number = 0
        self._labels: list[tuple[int, int, Label]] = []  # when to send it, its number
        self._parts = [_Part() for _ in range(partitions)]
        for number in range(accounts):
            account = f"a{number}"
            self._parts[crc32(account.encode()) % partitions].accounts.append(account)
        for number in range(max(partitions, accounts // 5)):
            self._parts[number % partitions].merchants.append(f"m{number}")

    def __iter__(self) -> Iterator[Item]:
        while True:
            self._clock += 1 + int(self._rng.expovariate(1 / self._step))
            while self._labels and self._labels[0][0] <= self._clock:
                yield from self._send_label(heapq.heappop(self._labels)[2])
            yield Item("transactions", self._transaction(self._rng.choice(self._parts)), self._clock)

    def _send_label(self, label: Label) -> Iterator[Item]:
        message = label_message(label)
        if self._rng.random() < GARBAGE:
            yield Item("labels", Sent(message.key, self._garbage(message)), self._clock)
        yield Item("labels", message, self._clock, label)
        if self._rng.random() < AGAIN:
            yield Item("labels", message, self._clock, label)

    def _transaction(self, part: _Part) -> Sent:
        chance = self._rng.random()
        if (chance := chance - GARBAGE) < 0:
            message = transaction_message(self._new(part, self._clock))
            return Sent(message.key, self._garbage(message))
        if chance - AGAIN < 0 and part.sent:
            recent = [sent for sent in part.sent if sent.timestamp >= part.lead - REPEATED_WITHIN * DAY]
            again = self._rng.choice(recent)
            return transaction_message(self._altered(again) if self._rng.random() < 0.2 else again)
        new = self._new(part, self._instant(part))
        part.sent.append(new)
        part.lead = max(part.lead, new.timestamp)
        if new.timestamp >= part.lead - LATENESS and self._rng.random() < LABELLED:
            known = new.timestamp + self._rng.randrange(self._early + LATENESS, self._early + LATENESS + SLOWEST_LABEL)
            ids = (new.transaction_id, new.account_id, new.merchant_id)
            label = Label(*ids, new.timestamp, self._rng.random() < 0.8, known)
            heapq.heappush(self._labels, (known - self._early, self._number, label))
        return transaction_message(new)

    def _instant(self, part: _Part) -> int:
        """The event time of a new transaction."""
        chance = self._rng.random()
        if not part.lead or (chance := chance - AT_ONCE) < 0:
            return part.lead or self._clock
        if (chance := chance - OUT_OF_ORDER) < 0:
            # Some as late as is allowed to the microsecond.
            return part.lead - (LATENESS if self._rng.random() < 0.1 else self._rng.randrange(LATENESS))
        if (chance := chance - TOO_LATE) < 0:
            return part.lead - LATENESS - (1 if self._rng.random() < 0.2 else self._rng.randrange(1, 3 * DAY))
        return self._clock

    def _new(self, part: _Part, timestamp: int) -> Transaction:
        rng = self._rng
        self._number += 1
        return Transaction(
            f"t{self._number}",
            rng.choice(part.accounts),
            rng.choice(part.merchants),
            rng.choice([-(10**6), 10**11]) if rng.random() < 0.005 else rng.randrange(100, 25_000),
            timestamp,
            rng.choice(["card", "transfer", None]),
            rng.choice(["Paris", "Lyon", "Nîmes", None]),
            rng.choice([f"d{rng.randrange(5)}", None]),
        )

    def _altered(self, again: Transaction) -> Transaction:
        """The same id with another amount: the first decision stands."""
        return Transaction(
            again.transaction_id, again.account_id, again.merchant_id, again.amount + 1_000, again.timestamp
        )

    def _garbage(self, good: Sent) -> bytes | None:
        assert good.value is not None
        fields = json.loads(good.value)
        name = self._rng.choice(["transaction_id", "account_id", "merchant_id", "timestamp"])
        lacking = {key: value for key, value in fields.items() if key != name}
        return self._rng.choice(
            [
                None,
                self._rng.randbytes(self._rng.randrange(1, 60)),
                good.value[: self._rng.randrange(1, len(good.value))],
                json.dumps(lacking).encode(),
                json.dumps([fields]).encode(),
                json.dumps(fields | {name: ["no", "text"]}).encode(),
                json.dumps(fields | {"timestamp": rfc3339(self._clock).removesuffix("Z")}).encode(),
                json.dumps(fields | {"timestamp": "2190-01-01T00:00:00Z"}).encode(),
                json.dumps(fields | {"transaction_id": "x" * 65}).encode(),
            ]
        )
