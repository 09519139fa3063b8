"""The Kafka end where records leave: one Bytewax partition for each partition of the topic.

Delivery: with recovery, effectively once for readers of committed data. Every record goes through the process's outbox,
and is committed before the epoch that wrote it counts as done; the epoch's state says up to which offset that was.
After a crash the outboxes of the new processes first fence those of the old ones, so that nothing comes late any more.
What then lies beyond the saved offset is what the unfinished epoch had committed; it is read back, and not written
again when the flow comes to it once more. A record that Kafka does not take stops the flow. Without recovery the flow
starts anew, and writes anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, NamedTuple
from zlib import crc32

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows import tail, topics
from flows.outbox import Outbox, Parcel
from flows.records import Outgoing
from flows.settings import Settings

FRAMING: Final = 260  # bytes that the record format and two more headers may add


class Written(NamedTuple):
    """The recovery state of one partition.

    ``until``: the offset after the last record of the epochs that are done. ``repeats``: records before it that the
    flow will come to again, because an epoch that was cut short had got further than those that took its place.
    """

    until: int
    repeats: frozenset[bytes]


class KafkaSink(FixedPartitionedSink[list[Outgoing], Written]):
    """Writes records to the partition of a topic whose number is their key; ``by_partition`` gives them that.

    ``begins``: with recovery, the offsets from which on the topic's partitions are this flow's; partitions that are
    added later get nothing, since what was written is looked for where the key goes. ``alerts``: the topic of the
    alerts, each of which is committed with its record, so that one is never there without the other. ``cut``: a record
    that is larger than the topic takes is cut, and says so, instead of stopping the flow for ever.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        outbox: Outbox,
        begins: Sequence[int] | None = None,
        *,
        alerts: str | None = None,
        cut: bool = False,
    ) -> None:
        self.settings = settings
        self.topic = topic
        self.outbox = outbox
        self.begins = begins
        self.alerts = alerts
        self.cut = cut

    def list_parts(self) -> list[str]:
        """The topic's partitions; Bytewax sorts them as text, hence the zeros."""
        there = topics.partitions(self.settings, [self.topic])[self.topic]
        return [f"{number:05d}" for number in range(there if self.begins is None else len(self.begins))]

    def by_partition(self, records: Sequence[Outgoing]) -> list[tuple[str, list[Outgoing]]]:
        """Records under the numbers of their partitions, which their keys decide as in the Kafka client: by CRC-32."""
        gathered: dict[int, list[Outgoing]] = {}
        for record in records:
            gathered.setdefault(crc32(record.key or b"") % self._count, []).append(record)
        return [(str(number), of_it) for number, of_it in gathered.items()]

    def part_fn(self, item_key: str) -> int:
        """The number itself."""
        return int(item_key)

    @cached_property
    def _count(self) -> int:
        return len(self.list_parts())

    def build_part(self, step_id: str, for_part: str, resume_state: Written | None) -> Writer:  # noqa: ARG002
        """A writer to one partition of the topic, that knows what was written beyond the saved state.

        Bytewax calls this when all processes of the flow have met, so all outboxes are open.
        """
        number = int(for_part)
        written = resume_state
        if written is None and self.begins is not None:
            written = Written(self.begins[number], frozenset())
        if written is not None:
            until, found = tail.read(self.settings, self.topic, number, written.until)
            written = Written(until, written.repeats | found)
        largest = self.outbox.limits[self.topic] if self.cut else None
        alerts = None
        if self.alerts is not None:
            alerts = Route(self.alerts, topics.partitions(self.settings, [self.alerts])[self.alerts])
        return Writer(self.outbox, self.topic, number, written, alerts=alerts, largest=largest)


class Route(NamedTuple):
    """A topic whose partitions go by the key, too."""

    topic: str
    partitions: int


class Writer(StatefulSinkPartition[list[Outgoing], Written]):
    """Writes to one partition; shares the process's outbox with all others."""

    def __init__(
        self,
        outbox: Outbox,
        topic: str,
        number: int,
        written: Written | None = None,
        *,
        alerts: Route | None = None,
        largest: int | None = None,
    ) -> None:
        self._until, repeats = written or Written(0, frozenset())
        self._repeats = set(repeats)
        self._alerts = alerts
        self._largest = largest
        self._outbox = outbox
        self._topic = topic
        self._number = number

    def write_batch(self, values: list[list[Outgoing]]) -> None:
        """Hands the records to the outbox; blocks only while that is full."""
        records = [record for some in values for record in some]
        if self._repeats:
            records = [record for record in records if not self._is_repeat(record)]
        if self._largest is not None:
            records = [_cut(record, self._largest) for record in records]
        parcels = [Parcel(self._topic, self._number, records)]
        if self._alerts is not None:
            topic, count = self._alerts
            parcels += (
                Parcel(topic, crc32(record.key or b"") % count, [Outgoing(record.key, record.alert, {})])
                for record in records
                if record.alert is not None
            )
        self._outbox.put(parcels)

    def _is_repeat(self, outgoing: Outgoing) -> bool:
        identity = tail.identity(outgoing.value, outgoing.headers)
        if identity not in self._repeats:
            return False
        self._repeats.remove(identity)
        return True

    def snapshot(self) -> Written:
        """Returns when everything written so far is committed; the epoch waits for it."""
        self._outbox.settle()
        self._until = max(self._until, self._outbox.end(self._topic, self._number))
        return Written(self._until, frozenset(self._repeats))


def _cut(outgoing: Outgoing, largest: int) -> Outgoing:
    """The record as far as it fits: its value is cut first, and its key only where that alone is too large."""
    key, value, headers = outgoing.key, outgoing.value, outgoing.headers
    room = max(0, largest - FRAMING - sum(len(name) + len(text.encode()) + 10 for name, text in headers.items()))
    if len(key or b"") + len(value or b"") <= room:
        return outgoing
    if key is not None and len(key) > room:
        headers = {**headers, "key_cut_from_bytes": str(len(key))}
        key = key[:room]
    if value is not None and len(value) > room - len(key or b""):
        headers = {**headers, "value_cut_from_bytes": str(len(value))}
        value = value[: room - len(key or b"")]
    return Outgoing(key, value, headers)
