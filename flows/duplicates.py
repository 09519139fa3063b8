"""Ids seen of late, to know a transaction that comes again."""

from __future__ import annotations

from array import array

from features.fields import END


class RecentIds:
    """The ids of one key in the order they came, each with its event time."""

    __slots__ = ("_instants", "_texts")

    def __init__(self, texts: bytes = END, instants: bytes = b"") -> None:
        self._texts = bytearray(texts)
        self._instants = array("q", instants)

    def __contains__(self, text: str) -> bool:
        return END + text.encode() + END in self._texts

    def __len__(self) -> int:
        return len(self._instants)

    def add(self, text: str, timestamp: int) -> None:
        """Remembers an id."""
        self._texts += text.encode() + END
        self._instants.append(timestamp)

    def forget(self, before: int) -> None:
        """Drops the ids of events before that instant."""
        # Dropping copies the rest, so it waits until an eighth of the ids may go.
        if not self._instants or self._instants[len(self._instants) // 8] >= before:
            return
        ids = self._texts.split(END)[1:-1]
        kept = [(text, t) for text, t in zip(ids, self._instants, strict=True) if t >= before]
        self._texts = bytearray(END + b"".join(text + END for text, _ in kept))
        self._instants = array("q", [t for _, t in kept])

    def pack(self) -> tuple[bytes, bytes]:
        """The arguments that make the same again."""
        return bytes(self._texts), self._instants.tobytes()
