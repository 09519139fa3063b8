"""Ids seen of late, to know a transaction that comes again."""

from __future__ import annotations

from array import array
from typing import Final

_END: Final = b"\xff"  # occurs in no UTF-8 text


class RecentIds:
    """The ids of one key in the order they came, each with its event time; those beyond the horizon are forgotten."""

    __slots__ = ("_instants", "_newest", "_texts")

    def __init__(self, texts: bytes = _END, instants: bytes = b"") -> None:
        self._texts = bytearray(texts)
        self._instants = array("q", instants)
        self._newest = max(self._instants, default=0)

    def __contains__(self, text: str) -> bool:
        return _END + text.encode() + _END in self._texts

    def __len__(self) -> int:
        return len(self._instants)

    def add(self, text: str, timestamp: int, horizon: int) -> None:
        """Remembers an id until the key has seen an event more than ``horizon`` microseconds newer than it."""
        self._texts += text.encode() + _END
        self._instants.append(timestamp)
        self._newest = max(self._newest, timestamp)
        # Forgetting copies the rest, so it waits until an eighth of the ids may go.
        if self._instants[len(self._instants) // 8] < self._newest - horizon:
            self._forget(self._newest - horizon)

    def pack(self) -> tuple[bytes, bytes]:
        """The arguments that make the same again."""
        return bytes(self._texts), self._instants.tobytes()

    def _forget(self, before: int) -> None:
        ids = self._texts.split(_END)[1:-1]
        kept = [(text, t) for text, t in zip(ids, self._instants, strict=True) if t >= before]
        self._texts = bytearray(_END + b"".join(text + _END for text, _ in kept))
        self._instants = array("q", [t for _, t in kept])
