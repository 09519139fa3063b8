"""What becomes of the events that were read: repeats are counted, late ones rejected, the rest remembered and dealt.

One process reads everything, so what it decides here holds for all workers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import compress

import msgspec
import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from features.errors import InvalidRecord
from features.recent import RecentIds
from features.transaction import MICROSECOND, Label, Transaction, microseconds, rfc3339
from flows import metrics
from flows.journal import NOTHING, Journal, Memory, Position
from flows.records import TEXTS, ForAccounts, ForMerchants, Rejection, Transactions
from flows.settings import Settings
from flows.shards import Dealer

Dealt = ForAccounts | ForMerchants


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A record whose turn it is; ``late``: by the measure of its own partition."""

    event: Transaction | Label | Rejection
    late: bool
    message: Message


class Intake:
    """Takes in what one reader has read."""

    def __init__(
        self,
        settings: Settings,
        workers: int,
        memory: Memory | None,
        position: Position,
        watermark: int,
        *,
        texts: Collection[str] = TEXTS,
    ) -> None:
        """Without a memory nothing outlives the process; ``texts``: see ``Dealer``.

        Raises ``InvalidStore`` as ``Journal`` does.
        """
        # An id is needed until a repeat of it would be too late, which the watermark says; from there on by choice.
        self._ids_kept = (settings.duplicate_horizon - settings.allowed_lateness) // MICROSECOND
        self._dealer = Dealer(workers, texts)
        self.keys = self._dealer.keys  # of the shards, one of each worker
        self._recent = RecentIds()
        self._watermark = watermark
        self._journal = None
        if memory is not None:
            kept = memory._replace(keep=max(memory.keep, self._ids_kept))
            self._journal = Journal(kept, position)

    def past(self) -> Iterator[list[Dealt]]:
        """What earlier runs have taken in, for the windows alone; before ``take``."""
        for transactions, labels in self._journal.past() if self._journal else ():
            self._repeats(transactions, np.zeros(len(transactions), np.bool_), self._watermark)
            said = [(len(transactions), label) for label in labels]
            yield self._dealer.deal(transactions, said, self._watermark, past=True)

    def take(self, readings: Sequence[Reading], watermark: int) -> list[Rejection | Dealt]:
        """Decides on the records, all of which were read under this watermark (microseconds since 1970)."""
        self._watermark = watermark
        out: list[Rejection | Dealt] = []
        read: list[Reading] = []
        labels: list[tuple[int, Label]] = []
        for reading in readings:
            event = reading.event
            if isinstance(event, Transaction):
                read.append(reading)
            elif isinstance(event, Label):
                labels.append((len(read), event))
            else:
                out.append(event)
        if not read and not labels:
            return out
        arrived = np.fromiter((reading.message.timestamp()[1] for reading in read), np.int64, len(read))
        transactions = Transactions.of(
            [reading.event for reading in read if isinstance(reading.event, Transaction)], arrived
        )
        late = np.fromiter((reading.late for reading in read), np.bool_, len(read))
        late |= transactions.timestamp < watermark
        repeated = self._repeats(transactions, late, watermark)
        refused = repeated | late
        if refused.any():
            metrics.DUPLICATES.inc(int(repeated.sum()))
            out.extend(too_late(reading) for reading in compress(read, late & ~repeated))
            kept = np.flatnonzero(~refused)
            labels = [(int(np.searchsorted(kept, before)), label) for before, label in labels]
            transactions = transactions.at(kept)
        if self._journal:
            self._journal.add(transactions, [label for _, label in labels])
        out.extend(self._dealer.deal(transactions, labels, watermark))
        return out

    def save(self) -> Position:
        """Returns when all that was taken in is on disk; what of the journal is valid then."""
        return self._journal.save(self._watermark) if self._journal else NOTHING

    def close(self) -> None:
        """What was not saved is forgotten."""
        if self._journal:
            self._journal.close()

    def _repeats(self, transactions: Transactions, late: NDArray[np.bool_], watermark: int) -> NDArray[np.bool_]:
        """Which of the ids their accounts have used within the duplicate horizon; those that were not are, now."""
        n = len(transactions)
        accounts = np.fromiter(map(hash, transactions.account_id), np.int64, n)
        ids = np.fromiter(map(hash, transactions.transaction_id), np.int64, n)
        return self._recent.repeats(accounts, ids, transactions.timestamp, late, watermark - self._ids_kept)


def rejection(message: Message, invalid: InvalidRecord) -> Rejection:
    """The message as it goes to the rejected topic."""
    return Rejection(
        message.key(),
        message.value(),
        {
            "error_code": invalid.code,
            # Half of a surrogate pair, which JSON can name, is no UTF-8.
            "error_message": str(invalid).encode(errors="backslashreplace").decode(),
            "source_topic": str(message.topic()),
            "source_partition": str(message.partition()),
            "source_offset": str(message.offset()),
            "rejected_at": rfc3339(microseconds(datetime.now(UTC))),
        },
    )


def too_late(reading: Reading) -> Rejection:
    """The transaction as it goes to the rejected topic."""
    assert isinstance(reading.event, Transaction)
    text = (
        f"timestamp is {rfc3339(reading.event.timestamp)}, more than the allowed lateness before the newest one; "
        "send events sooner, or raise VIGIE_ALLOWED_LATENESS"
    )
    return rejection(reading.message, InvalidRecord("too_late", text))
