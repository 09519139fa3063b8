"""Rejected records, sent again to where they came from, once what was wrong with them or with the settings is mended.

    python -m flows.redrive [--code too_late,not_json] [--since INSTANT] [--until INSTANT] [--limit N] [--dry-run]

Delivery: each rejected record is sent once, whatever dies when. How far the redrive has come is committed in the same
Kafka transaction as the records (flows/rejected.py says how), and a redrive that starts fences one that still runs.
A record goes with its key and bytes to the partition it came from, so that its account keeps one partition. What the
``scored`` topic holds already is not sent: the flow itself remembers ids only for a while.

It ends where the topic ended when it began. What the flow rejects anew is a new rejection, for the next redrive.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from features.errors import InvalidRecord, InvalidSetting, VigieError
from features.transaction import ERROR_CODES, microseconds, parse_transaction, rfc3339
from flows import topics
from flows.rejected import Place, Reading, Rejected, rejected
from flows.resend import Resent, Sender
from flows.settings import Settings, instant
from flows.sink import FRAMING
from flows.tail import identity, of_transaction

RECORDS: Final = 500  # a transaction
BYTES: Final = 4_000_000  # a transaction, or a little more
NAMED: Final = 20  # records left that are named one by one


class Choice(NamedTuple):
    """What to redrive. ``codes``: only these (none: all). ``since``, ``until``: when it was rejected, microseconds."""

    codes: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    limit: int | None = None


@dataclass
class Outcome:
    """What became of the records that were read: how many were sent, by code, and how many were left, by reason."""

    read: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)

    def leave(self, place: str, why: str) -> None:
        """Counts a record that is not sent and never will be, and names the first ones."""
        self.left[why] += 1
        if self.left.total() <= NAMED:
            self.named.append(f"left {place}: {why}")

    def show(self, console: Console, *, dry_run: bool) -> None:
        """Prints the table."""
        table = Table(show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("read", f"{self.read:,}")
        for code, times in sorted(self.sent.items()):
            table.add_row(f"{'would be sent' if dry_run else 'sent'}, {code}", f"{times:,}")
        for why, times in sorted(self.left.items()):
            table.add_row(f"left, {why}", f"{times:,}")
        console.print(table)


class Redrive:
    """One pass through the rejected topic; without a sender it only finds out what would be sent."""

    def __init__(self, settings: Settings, choice: Choice, sender: Sender | None) -> None:
        self._settings = settings
        self._choice = choice
        self._sender = sender
        self._outcome = Outcome()
        self._topic = settings.rejected_topic
        self._latest = microseconds(datetime.now(UTC) + settings.future_tolerance)
        self._scored: set[bytes] = set()
        # Records are fetched whole while the rejected topic is being read, hence two.
        self._reading, self._sources = (Reading(settings, group_of(settings)) for _ in range(2))
        self._targets = topics.partitions(settings, [settings.transactions_topic, settings.labels_topic])
        self._largest = topics.largest_records(settings, self._targets)
        count = topics.partitions(settings, [self._topic])[self._topic]
        self._places = {number: self._reading.place(self._topic, number) for number in range(count)}
        self._ends = {number: self._reading.edges(self._topic, number)[1] for number in range(count)}

    def run(self) -> Outcome:
        """Sends what is to be sent. Raises ``KafkaFailure``; what was sent by then is not sent again."""
        self._scored = self._already_scored()
        for number, place in self._places.items():
            self._send_from(number, place)
        return self._outcome

    def close(self) -> None:
        """Leaves Kafka."""
        self._reading.close()
        self._sources.close()

    def _send_from(self, number: int, place: Place) -> None:
        """Redrives one partition."""
        outcome, codes, limit = self._outcome, self._choice.codes, self._choice.limit
        end = self._ends[number]
        waiting: list[Resent] = []
        size = 0
        for message in self._reading.between(self._topic, number, place.least(codes), end):
            offset = message.offset() or 0
            if self._choice.until is not None and message.timestamp()[1] * 1000 >= self._choice.until:
                end = offset
                break
            if limit is not None and outcome.sent.total() >= limit:
                end = offset
                break
            record = rejected(message)
            code = record.code if record else ""
            if offset < place.of(code):
                continue  # done by an earlier redrive of this code
            outcome.read += 1
            if codes and code not in codes:
                outcome.left["its code is not chosen: for a later redrive"] += 1
                continue
            at = f"{self._topic}[{number}]@{offset}"
            if self._choice.since is not None and message.timestamp()[1] * 1000 < self._choice.since:
                outcome.left["rejected before --since"] += 1
                continue
            resent = self._prepared(at, record)
            if isinstance(resent, str):
                outcome.leave(at, resent)
                continue
            outcome.sent[code] += 1
            waiting.append(resent)
            size += len(resent.value or b"")
            if len(waiting) >= RECORDS or size >= BYTES:
                self._commit(number, waiting, place.moved(codes, offset + 1))
                waiting, size = [], 0
        # Even where nothing was sent: Kafka forgets the place of a group that is not heard of for a week.
        self._commit(number, waiting, place.moved(codes, end))

    def _commit(self, number: int, records: list[Resent], place: Place) -> None:
        if self._sender is not None:
            consumer = self._reading.consumer
            self._sender.transact(records, place.stored(self._topic, number), consumer.consumer_group_metadata())

    def _prepared(self, at: str, record: Rejected | None) -> Resent | str:
        """The record as it is sent again, or why it is not."""
        if record is None:
            return "not written by the flow"
        if record.source_topic not in self._targets:
            return f"came from {record.source_topic}, which the flow does not read"
        there = 0 <= record.source_partition < self._targets[record.source_topic]
        value = self._value(record)
        if record.key_cut:
            return "its key was cut"
        if record.cut_from is not None and value is None:
            return "cut, and its source no longer holds it whole"
        if self._identity(record, value) in self._scored:
            return "already scored"
        headers = {"redriven_from": at, "redriven_at": rfc3339(microseconds(datetime.now(UTC)))}
        size = len(record.key or b"") + len(value or b"") + sum(len(n) + len(t) for n, t in headers.items()) + FRAMING
        if size > self._largest[record.source_topic]:
            return "too large for its topic with two headers more"
        return Resent(record.source_topic, record.source_partition if there else None, record.key, value, headers)

    def _value(self, record: Rejected) -> bytes | None:
        """The record's value, whole; None where it was cut and cannot be found."""
        there = 0 <= record.source_partition < self._targets[record.source_topic]
        return self._sources.whole(record) if there or record.cut_from is None else None

    def _identity(self, record: Rejected, value: bytes | None) -> bytes | None:
        """What the transaction would be known by in the scored topic; None of what cannot be scored anyway."""
        if record.source_topic != self._settings.transactions_topic:
            return None
        try:
            transaction = parse_transaction(value, self._latest)
        except InvalidRecord:
            return None
        return of_transaction(transaction.account_id, transaction.transaction_id)

    def _already_scored(self) -> set[bytes]:
        """The identities of rejected transactions that are found in the scored topic."""
        codes, candidates = self._choice.codes, set[bytes]()
        for number, place in self._places.items():
            for message in self._reading.between(self._topic, number, place.least(codes), self._ends[number]):
                record = rejected(message)
                if record is None or record.source_topic not in self._targets:
                    continue
                if (not codes or record.code in codes) and record.offset >= place.of(record.code):
                    one = self._identity(record, self._value(record))
                    candidates |= {one} if one is not None else set()
        found = set[bytes]()
        if not candidates:
            return found
        topic = self._settings.scored_topic
        for number in range(topics.partitions(self._settings, [topic])[topic]):
            for message in self._reading.between(topic, number, *self._reading.edges(topic, number)):
                try:
                    one = identity(message.value(), {})
                except msgspec.MsgspecError:
                    continue  # a stray, none of the flow's
                if one in candidates:
                    found.add(one)
        return found


def group_of(settings: Settings) -> str:
    """The consumer group that holds how far the redrive has come, and the transactional id."""
    return f"{settings.group}-redrive"


def redrive(settings: Settings, choice: Choice, *, dry_run: bool = False) -> Outcome:
    """Sends the rejected records that are chosen. Raises ``KafkaFailure``."""
    topics.partitions(settings, settings.topics)  # a clear word where there is no Kafka
    # First of all: it ends whatever an earlier redrive has left open, and then the places are certain.
    with ExitStack() as open_ones:
        sender = None
        if not dry_run:
            sender = Sender(settings, group_of(settings))
            open_ones.callback(sender.close)
        one = Redrive(settings, choice, sender)
        open_ones.callback(one.close)
        return one.run()


def _codes(text: str) -> tuple[str, ...]:
    codes = tuple(dict.fromkeys(code.strip() for code in text.split(",")))
    if unknown := [code for code in codes if code not in ERROR_CODES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such code; there are {', '.join(ERROR_CODES)}")
    return codes


def _instant(text: str) -> int:
    try:
        return instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m flows.redrive", description="Send rejected records in again.")
    parser.add_argument("--code", type=_codes, default=(), help="only these; the others are left for a later redrive")
    parser.add_argument("--since", type=_instant, help="pass over, for good, what was rejected before this instant")
    parser.add_argument("--until", type=_instant, help="leave, for a later redrive, what was rejected from then on")
    parser.add_argument("--limit", type=int, help="send only so many; the rest is left for a later redrive")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    options = parser.parse_args(arguments)
    try:
        if options.limit is not None and options.limit <= 0:
            raise InvalidSetting(f"--limit is {options.limit}; give more than 0")
        settings = Settings.from_environment(os.environ)
        choice = Choice(options.code, options.since, options.until, options.limit)
        outcome = redrive(settings, choice, dry_run=options.dry_run)
    except VigieError as error:
        print(f"redrive: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for line in outcome.named:
        print(line)
    outcome.show(Console(), dry_run=options.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
