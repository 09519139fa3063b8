"""The flow's steps without its outputs: a past runs through them, and only the states stay.

Flow and steps have the names that they have in ``flows.score``, since states are kept under these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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

from features.definitions import Feature
from features.transaction import MICROSECOND, Label, Transaction
from flows import stop
from flows.records import Arrival, Candidate, Rejection, Tick
from flows.score import with_features
from flows.settings import Settings
from flows.source import Positions
from flows.tail import of_transaction

BATCH: Final = 1000
LATEST: Final = 500_000  # transactions, about those of the minutes before a crash
ONE_EPOCH: Final = timedelta(days=365)  # so that every state is saved once, at the end


class Taken:
    """What has become part of the states; ``oldest`` and ``newest``: event times of the transactions.

    ``latest``: the identities of the last transactions.
    """

    def __init__(self) -> None:
        self.transactions = self.labels = self.oldest = self.newest = 0
        self.latest: deque[bytes] = deque(maxlen=LATEST)

    def note(self, item: Arrival | Rejection | Tick) -> Arrival | Rejection | Tick:
        """Counts the item, and gives it back."""
        if isinstance(item, Arrival) and not item.too_late:
            if isinstance(item.event, Label):
                self.labels += 1
            else:
                instant = item.event.timestamp
                self.oldest = min(self.oldest, instant) if self.transactions else instant
                self.newest = max(self.newest, instant)
                self.transactions += 1
                self.latest.append(of_transaction(item.event.account_id, item.event.transaction_id))
        return item

    def followed_by(self, later: Taken) -> Taken:
        """The two together."""
        later.transactions, later.labels = self.transactions + later.transactions, self.labels + later.labels
        later.oldest, later.newest = self.oldest or later.oldest, max(self.newest, later.newest)
        return later

    def span(self) -> timedelta:
        """From the oldest transaction to the newest."""
        return (self.newest - self.oldest) * MICROSECOND


class PastSource(FixedPartitionedSource[Arrival | Rejection | Tick, Positions]):
    """Events in order of time, as the Kafka source would give them that had read them; its state is ``positions``.

    ``lateness`` in microseconds. One source, for one run.
    """

    def __init__(self, events: Iterator[Transaction | Label], positions: Positions, lateness: int) -> None:
        self.events = events
        self.positions = positions
        self.lateness = lateness

    def list_parts(self) -> list[str]:
        """The name that the Kafka source gives its one partition."""
        stop.connected.set()
        return ["kafka"]

    def build_part(self, step_id: str, for_part: str, resume_state: Positions | None) -> PastReader:  # noqa: ARG002
        """From the beginning: an unfinished store has been emptied."""
        return PastReader(self.events, self.positions, self.lateness)


class PastReader(StatefulSourcePartition[Arrival | Rejection | Tick, Positions]):
    """A thousand events at a time."""

    def __init__(self, events: Iterator[Transaction | Label], positions: Positions, lateness: int) -> None:
        self._events = enumerate(events)
        self._positions = positions
        self._lateness = lateness
        self._watermark = 0

    def next_batch(self) -> Iterable[Arrival | Tick]:
        """The next events, and a tick, so that idle keys are dropped."""
        items: list[Arrival | Tick] = []
        for sequence, event in islice(self._events, BATCH):
            items.append(Arrival(sequence, event, self._watermark, None))
            if isinstance(event, Transaction):
                self._watermark = max(self._watermark, event.timestamp - self._lateness)
        if not items or stop.requested.is_set():
            raise StopIteration
        return [*items, Tick(self._watermark)]

    def snapshot(self) -> Positions:
        """Where the flow is to go on; it is asked once, at the end."""
        return self._positions


class Nowhere(DynamicSink[Candidate | Rejection], StatelessSinkPartition[Candidate | Rejection]):
    """Lets what comes out go."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Nowhere:  # noqa: ARG002
        """Itself: there is one worker."""
        return self

    def write_batch(self, items: list[Candidate | Rejection]) -> None:
        """Nothing."""


def run(
    source: FixedPartitionedSource[Arrival | Rejection | Tick, Positions],
    features: Sequence[Feature],
    settings: Settings,
    directory: Path,
) -> Taken:
    """Runs the source through the flow's steps, states saved in the store, to its end or until a stop is requested."""
    taken = Taken()
    flow = Dataflow("vigie")
    read = op.map("taken", op.input("read_v1", flow, source), taken.note)
    candidates, rejected = with_features(read, features, settings)
    op.output("not_scored", candidates, Nowhere())
    op.output("not_rejected", rejected, Nowhere())
    stop.on_signals(settings.kafka_timeout, settings.stop_timeout)
    recovery = RecoveryConfig(directory, timedelta(0))  # type: ignore[no-untyped-call]  # bytewax ships without types
    run_main(flow, epoch_interval=ONE_EPOCH, recovery_config=recovery)  # type: ignore[no-untyped-call]  # as above
    return taken
