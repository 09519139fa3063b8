"""Ids seen of late, to know a transaction that comes again."""

from __future__ import annotations

from array import array

from features.fields import END


class RecentIds:
    """The ids of one key in the order they came, each with its event time. Ids are bytes of UTF-8, or without 0xff."""

    __slots__ = ("_ids", "_instants", "_newest")

    def __init__(self, ids: bytes = END, instants: bytes = b"") -> None:
        self._ids = bytearray(ids)
        self._instants = array("q", instants)
        self._newest = max(self._instants, default=0)

    def __len__(self) -> int:
        return len(self._instants)

    def newest(self) -> int:
        """The newest event time of all ids; 0 without any."""
        return self._newest

    def seen(self, identity: bytes, since: int) -> bool:
        """Whether the id came with an event time of ``since`` or later; the same answer however much was forgotten."""
        at = self._ids.rfind(END + identity + END)
        return at >= 0 and self._instants[self._ids.count(END, 0, at)] >= since

    def add(self, identity: bytes, timestamp: int) -> None:
        """Remembers an id."""
        self._ids += identity + END
        self._instants.append(timestamp)
        self._newest = max(self._newest, timestamp)

    def forget(self, before: int) -> None:
        """Drops the ids of events before that instant, sooner or later."""
        # Dropping copies the rest, so it waits until an eighth of the ids may go.
        if not self._instants or self._instants[len(self._instants) // 8] >= before:
            return
        ids = self._ids.split(END)[1:-1]
        kept = [(identity, t) for identity, t in zip(ids, self._instants, strict=True) if t >= before]
        self._ids = bytearray(END + b"".join(identity + END for identity, _ in kept))
        self._instants = array("q", [t for _, t in kept])
        self._newest = max(self._instants, default=0)

    def pack(self) -> tuple[bytes, bytes]:
        """The arguments that make the same again."""
        return bytes(self._ids), self._instants.tobytes()
