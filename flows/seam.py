"""Where the topic takes over from a history: the transactions topic may hold some of what the history holds as well.

Of each partition the flow reads from the first record on that is not in the history. What lies after it and is in the
history the flow knows again by its id, and drops, as far back as it remembers ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from confluent_kafka import Message

from features.errors import InvalidHistory, InvalidRecord
from features.transaction import MICROSECOND, Transaction, microseconds, parse_transaction
from flows import topics
from flows.reading import records
from flows.settings import Settings
from flows.tail import of_transaction

DAY = timedelta(days=1)


class Seam:
    """One partition held against the history.

    ``offset``: of the first record that is not in the history, so far the next one. ``lead``: the newest event time
    before it. ``known``, ``new``, ``too_late``: how many records are in the history; are not; are not, and lie before
    the watermark. ``forgotten``: how many are in the history, lie after ``offset``, and would not be known again;
    ``needed``: the duplicate horizon in microseconds that would know them all.
    """

    def __init__(self, low: int, end: int, settings: Settings) -> None:
        self.offset = low
        self.lead = self.known = self.new = self.too_late = self.forgotten = self.needed = 0
        self._joined = False  # a record that is not in the history has come
        self._newest = end  # what the flow will measure by: the end of the history, and what it has read since
        self._watermark = end - settings.allowed_lateness // MICROSECOND
        self._horizon = settings.duplicate_horizon // MICROSECOND

    def take(self, offset: int, transaction: Transaction | None, remembered: int | None) -> None:
        """The partition's next record; None for one that cannot be read.

        ``remembered``: its event time in the history, None where it is not there.
        """
        if transaction is None or remembered is None:
            if not self._joined:
                self._joined, self.offset = True, offset
            self.new += 1
            self.too_late += transaction is not None and transaction.timestamp < self._watermark
        else:
            self.known += 1
            if not self._joined:
                self.offset = offset + 1
                self.lead = max(self.lead, transaction.timestamp)
            else:
                self.needed = max(self.needed, self._newest - remembered)
                self.forgotten += self._newest - remembered > self._horizon
        if transaction is not None:
            self._newest = max(self._newest, transaction.timestamp)


def find(settings: Settings, end: int, instants: Callable[[], Mapping[bytes, int]]) -> list[Seam]:
    """The seam of each partition of the transactions topic, as the topic stands now.

    ``end``: of the history, in microseconds since 1970. ``instants``: see ``past.instants_of``; called only where the
    topic holds something. Raises ``KafkaFailure`` where Kafka does not give all records.
    """
    topic = settings.transactions_topic
    latest = microseconds(datetime.now(UTC)) + settings.future_tolerance // MICROSECOND
    lows = topics.beginnings(settings, [topic])
    seams = [Seam(low, end, settings) for low in lows.values()]
    known: Mapping[bytes, int] | None = None
    for message in records(settings, lows, {}):
        known = instants() if known is None else known
        transaction = _parsed(message, latest)
        there = known.get(of_transaction(transaction.account_id, transaction.transaction_id)) if transaction else None
        seams[message.partition() or 0].take(message.offset() or 0, transaction, there)
    return seams


def check(settings: Settings, seams: list[Seam]) -> None:
    """Raises ``InvalidHistory`` where the flow would not know all of the history's transactions again."""
    forgotten = sum(seam.forgotten for seam in seams)
    if forgotten:
        where = ", ".join(
            f"[{n}] from offset {s.offset} on: {s.forgotten:,}" for n, s in enumerate(seams) if s.forgotten
        )
        needed = max(seam.needed for seam in seams) * MICROSECOND
        raise InvalidHistory(
            f"{forgotten:,} records of {settings.transactions_topic} are in the history, but lie after records that "
            f"are not, and further back than ids are remembered ({where}): the flow would reject them as too_late "
            f"instead of knowing them again; set VIGIE_DUPLICATE_HORIZON={-(-needed // DAY)}d (it is "
            f"{settings.duplicate_horizon}) here and for the flow, or export the history anew, with all that the topic "
            "holds of that time"
        )


def _parsed(message: Message, latest: int) -> Transaction | None:
    try:
        return parse_transaction(message.value(), latest)
    except InvalidRecord:
        return None  # the flow will meet it, and reject it
