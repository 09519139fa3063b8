"""Books: what was sent, and what became of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Final, NamedTuple
from zlib import crc32

from features.errors import InvalidRecord
from features.transaction import ERROR_CODES, Label, Transaction, microseconds, parse_label, parse_transaction
from flows.tail import END, identity
from tests.fuzz.records import Fuzzed

LATEST: Final = microseconds(datetime.now(UTC) + timedelta(minutes=5))  # as the flow has it by default
AHEAD: Final = timedelta(hours=1)

Position = tuple[str, int, int]  # topic, partition, offset


class Judged(NamedTuple):
    """A record to be sent: either a good one with what it holds, or one with the code of what is wrong with it."""

    purpose: str
    key: bytes | None
    value: bytes | None
    event: Transaction | Label | None
    code: str | None


class Expected(NamedTuple):
    """Of one record sent: an error code, or the identity of a transaction that can be scored, or neither (a label)."""

    code: str | None
    identity: bytes | None
    content: int  # a checksum


class Ledger:
    """Every record sent must come to one end: scored, rejected, a duplicate of what was scored, or a label taken in.

    ``memory``: microseconds of event time for which the flow remembers ids at least.
    """

    def __init__(self, topics: Mapping[str, str], memory: int) -> None:
        self.wrong: list[str] = []
        self._topics = topics
        self._memory = memory
        self._sent: dict[Position, Expected] = {}
        self._rejected: dict[Position, str] = {}
        self._scored: dict[bytes, list[int]] = defaultdict(list)

    def sent(self, record: Judged, partition: int, offset: int) -> None:
        """Notes a record, and the place in its topic that it gets."""
        place = self._topics[record.purpose], partition, offset
        event, one = record.event, None
        if isinstance(event, Transaction):
            one = event.account_id.encode() + END + event.transaction_id.encode()
        self._sent[place] = Expected(record.code, one, checksum(record.key, record.value))

    def rejected(self, key: bytes | None, value: bytes | None, headers: Mapping[str, str]) -> None:
        """Notes a record of the rejected topic."""
        place = headers["source_topic"], int(headers["source_partition"]), int(headers["source_offset"])
        code = headers["error_code"]
        expected = self._sent.get(place)
        if expected is None:
            self.wrong.append(f"{place} is rejected, but was never sent")
        elif code != expected.code and not (code == "too_late" and expected.identity is not None):
            self.wrong.append(f"{place} is rejected as {code}, but is {expected.code or 'good'}")
        elif expected.content != checksum(key, value):
            self.wrong.append(f"{place} is rejected with other bytes than were sent")
        if place in self._rejected or code not in ERROR_CODES:
            self.wrong.append(f"{place} is rejected as {code}, before as {self._rejected.get(place)}")
        self._rejected[place] = code

    def scored(self, value: bytes | None) -> None:
        """Notes a record of the scored topic."""
        transaction = parse_transaction(value, LATEST)
        self._scored[identity(value, {})].append(transaction.timestamp)

    def settle(self) -> Counter[str]:
        """How many records came to which end; what is wrong is in ``wrong`` afterwards."""
        ends: Counter[str] = Counter()
        waiting: Counter[bytes] = Counter()
        for place, expected in self._sent.items():
            if (code := self._rejected.get(place)) is not None:
                ends[code] += 1
            elif expected.code is not None:
                self.wrong.append(f"{place} should be rejected as {expected.code}, and has no outcome")
            elif expected.identity is None:
                ends["label"] += 1
            else:
                waiting[expected.identity] += 1
        for one, times in waiting.items():
            instants = sorted(self._scored.pop(one, []))
            if not 0 < len(instants) <= times:
                self.wrong.append(f"{one!r} was sent {times} times and scored {len(instants)} times")
            if any(later - earlier <= self._memory for earlier, later in pairwise(instants)):
                self.wrong.append(f"{one!r} was scored again although the flow should have remembered it: {instants}")
            ends["scored"] += len(instants)
            ends["duplicate"] += times - len(instants)
        self.wrong += [f"{one!r} was scored, but never sent, or rejected as well" for one in self._scored]
        return ends


def judged(records: Iterator[Fuzzed], n: int) -> Iterator[Judged]:
    """The next n records, without those that jump ahead of the clock, after which all others would be too late."""
    return islice((found for record in records if (found := judge(record)) is not None), n)


def judge(record: Fuzzed) -> Judged | None:
    """What becomes of the record; None where it jumps ahead."""
    event: Transaction | Label
    try:
        event = (parse_transaction if record.purpose == "transactions" else parse_label)(record.value, LATEST)
    except InvalidRecord as invalid:
        return Judged(record.purpose, record.key, record.value, None, invalid.code)
    newest = event.labelled_at if isinstance(event, Label) else event.timestamp
    if newest > microseconds(record.clock + AHEAD):
        return None
    return Judged(record.purpose, record.key, record.value, event, None)


def checksum(key: bytes | None, value: bytes | None) -> int:
    """Of a record's key and value; None is not the same as empty."""
    return crc32(value, crc32(key)) if key and value else crc32(repr((key, value)).encode())
