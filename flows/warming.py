"""A past on its way into a recovery store: read, and written to the journal, from which the flow takes it up.

Flow and source have the names that they have in ``flows.score``, since states are kept under these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import run_main

from features.transaction import MICROSECOND, Label, Transaction
from flows import stop
from flows.intake import Dealt
from flows.journal import NOTHING, Journal, Memory
from flows.records import ForMerchants, apart
from flows.settings import Settings
from flows.shards import Dealer
from flows.source import Item, Positions
from flows.tail import of_transaction

BATCH: Final = 1000
LATEST: Final = 500_000  # transactions, about those of the minutes before a crash
ONE_EPOCH: Final = timedelta(days=365)  # so that all is saved once, at the end


class Taken:
    """What is remembered now; ``oldest`` and ``newest``: event times of the transactions.

    ``latest``: the identities of the last transactions.
    """

    def __init__(self) -> None:
        self.transactions = self.labels = self.oldest = self.newest = 0
        self.accounts: set[str] = set()
        self.merchants: set[str] = set()
        self.latest: deque[bytes] = deque(maxlen=LATEST)

    def note(self, item: Item) -> Item:
        """Counts what is in it, and gives it back; there is one worker, so the merchants' part has everything."""
        if isinstance(item, ForMerchants) and not item.past:
            self.labels += len(item.labels)
            of = item.transactions
            if len(of):
                oldest = int(of.timestamp.min())
                self.oldest = min(self.oldest, oldest) if self.transactions else oldest
                self.newest = max(self.newest, int(of.timestamp.max()))
                self.transactions += len(of)
                self.accounts.update(of.account_id)
                self.merchants.update(of.merchant_id)
                self.latest.extend(map(of_transaction, of.account_id, of.transaction_id))
        return item

    def followed_by(self, later: Taken) -> Taken:
        """The two together."""
        later.transactions, later.labels = self.transactions + later.transactions, self.labels + later.labels
        later.oldest, later.newest = self.oldest or later.oldest, max(self.newest, later.newest)
        later.accounts |= self.accounts
        later.merchants |= self.merchants
        return later

    def span(self) -> timedelta:
        """From the oldest transaction to the newest."""
        return (self.newest - self.oldest) * MICROSECOND


class PastSource(FixedPartitionedSource[Item, Positions]):
    """Events in order of time, remembered as if the Kafka source had read them; its state is ``positions``.

    ``lateness`` in microseconds. One source, for one run.
    """

    def __init__(
        self, events: Iterator[Transaction | Label], positions: Positions, lateness: int, memory: Memory
    ) -> None:
        self.events = events
        self.positions = positions
        self.lateness = lateness
        self.memory = memory

    def list_parts(self) -> list[str]:
        """The name that the Kafka source gives its one partition."""
        stop.connected.set()
        return ["kafka"]

    def build_part(self, step_id: str, for_part: str, resume_state: Positions | None) -> PastReader:  # noqa: ARG002
        """From the beginning: an unfinished store has been emptied."""
        return PastReader(self.events, self.positions, self.lateness, Journal(self.memory, NOTHING))


class PastReader(StatefulSourcePartition[Item, Positions]):
    """A thousand events at a time."""

    def __init__(
        self, events: Iterator[Transaction | Label], positions: Positions, lateness: int, journal: Journal
    ) -> None:
        self._events = events
        self._positions = positions
        self._lateness = lateness
        self._journal = journal
        self._dealer = Dealer(1)
        self._watermark = 0

    def next_batch(self) -> Iterable[Dealt]:
        """The next events."""
        columns, labels = apart(islice(self._events, BATCH))
        if not (len(columns) or labels) or stop.requested.is_set():
            raise StopIteration
        self._journal.add(columns, [label for _, label in labels])
        self._watermark = max(self._watermark, int(columns.timestamp.max(initial=0)) - self._lateness)
        return self._dealer.deal(columns, labels, self._watermark)

    def snapshot(self) -> Positions:
        """Where the flow is to go on; it is asked once, at the end."""
        return self._positions._replace(journal=self._journal.save(self._watermark))

    def close(self) -> None:
        """What was saved stays."""
        self._journal.close()


class Nowhere(DynamicSink[Item], StatelessSinkPartition[Item]):
    """Lets what comes out go."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Nowhere:  # noqa: ARG002
        """Itself: there is one worker."""
        return self

    def write_batch(self, items: list[Item]) -> None:
        """Nothing."""


def run(source: FixedPartitionedSource[Item, Positions], settings: Settings, directory: Path) -> Taken:
    """Runs the source, its state saved in the store, to its end or until a stop is requested."""
    taken = Taken()
    flow = Dataflow("vigie")
    read = op.map("taken", op.input("read_v2", flow, source), taken.note)
    op.output("nowhere", read, Nowhere())
    stop.on_signals(settings.stop_timeout)
    recovery = RecoveryConfig(directory, timedelta(0))  # type: ignore[no-untyped-call]  # bytewax ships without types
    run_main(flow, epoch_interval=ONE_EPOCH, recovery_config=recovery)  # type: ignore[no-untyped-call]  # as above
    return taken
