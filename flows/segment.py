"""One file of the journal: blocks of events, each with its length and checksum, and with some of its texts as numbers.

What a number stands for is said where it first occurs in the segment, so such a text is there once. Ids are as many as
entities, so that a number for each would cost more time than it saves room: they are written as they are.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidStore
from features.transaction import Label
from flows.records import Transactions

COLUMNS: Final = ("account_id", "merchant_id", "transaction_type", "location", "device_id")
NUMBERED: Final = frozenset({"transaction_type", "location"})
PORTION: Final = 50_000  # events that are given back at once, or a few more
_HEAD: Final = 8  # bytes: length and checksum

Events = tuple[Transactions, list[Label]]


class _Block(msgspec.Struct, array_like=True):
    timestamps: bytes
    amounts: bytes
    transaction_ids: list[str]
    new_texts: list[list[str | None]]  # of each of COLUMNS
    codes: list[bytes]  # likewise; none where all the texts are new ones
    labels: list[tuple[str, str, str, int, bool, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Block).decode


class Codes(dict[str | None, int]):
    """A number for each text, given when it is first asked for; ``new``: those that came since ``new`` was emptied."""

    def __init__(self) -> None:
        self.new: list[str | None] = []

    def __missing__(self, text: str | None) -> int:
        code = self[text] = len(self)
        self.new.append(text)
        return code


class Segment:
    """A new segment, to be written; ``newest``: the newest instant in it, in microseconds since 1970."""

    def __init__(self, file: Path) -> None:
        self.length = self.events = self.newest = 0
        self._on_disk = 0  # bytes
        self._codes = {column: Codes() for column in NUMBERED}
        self._stream = file.open("wb", buffering=0)

    def write(self, batches: Sequence[Events]) -> None:
        """Writes a block of batches."""
        new_texts, codes = [], []
        for column in COLUMNS:
            texts = list(chain.from_iterable(getattr(transactions, column) for transactions, _ in batches))
            known = self._codes.get(column)
            if known is not None:
                codes.append(np.fromiter(map(known.__getitem__, texts), np.uint32, len(texts)).tobytes())
                texts, known.new = known.new, []
            else:
                codes.append(b"")
            new_texts.append(texts)
        timestamps = np.concatenate([transactions.timestamp for transactions, _ in batches])
        labels = [label for _, of_batch in batches for label in of_batch]
        block = _encode(
            _Block(
                timestamps.tobytes(),
                np.concatenate([transactions.amount for transactions, _ in batches]).tobytes(),
                [text for transactions, _ in batches for text in transactions.transaction_id],
                new_texts,
                codes,
                [msgspec.structs.astuple(label) for label in labels],
            )
        )
        view = memoryview(len(block).to_bytes(4, "little") + zlib.crc32(block).to_bytes(4, "little") + block)
        self.length += len(view)
        while view:
            view = view[self._stream.write(view) :]
        self.events += len(timestamps) + len(labels)
        self.newest = max(self.newest, newest(timestamps, labels))

    def sync(self) -> None:
        """Returns when all that was written is on disk."""
        if self.length > self._on_disk:
            os.fdatasync(self._stream.fileno())
            self._on_disk = self.length

    def close(self) -> None:
        """No more is written."""
        self._stream.close()


def read(file: Path) -> Iterator[Events]:
    """The events of a segment in the order of writing, in portions; ``InvalidStore`` where it is damaged."""
    texts: list[list[str | None]] = [[] for _ in COLUMNS]
    blocks: list[_Block] = []
    events = 0
    for block in _blocks(file):
        for known, new, codes in zip(texts, block.new_texts, block.codes, strict=True):
            if codes:
                known.extend(new)
        blocks.append(block)
        events += len(block.transaction_ids) + len(block.labels)
        if events >= PORTION:
            yield _events(blocks, texts)
            blocks, events = [], 0
    if blocks:
        yield _events(blocks, texts)


def newest(timestamps: NDArray[np.int64], labels: Sequence[Label]) -> int:
    """The newest instant that the events are of; a label is of its transaction's."""
    return max(int(timestamps.max(initial=0)), max((label.timestamp for label in labels), default=0))


def _blocks(file: Path) -> Iterator[_Block]:
    with file.open("rb") as stream:
        while head := stream.read(_HEAD):
            begins = stream.tell() - len(head)
            block = stream.read(int.from_bytes(head[:4], "little"))
            if len(block) != int.from_bytes(head[:4], "little") or head[4:] != zlib.crc32(block).to_bytes(4, "little"):
                raise InvalidStore(
                    f"{file} is damaged at byte {begins:,}; restore it from a backup, or use an empty recovery "
                    "directory and `just warm`"
                )
            yield _decode(block)


def _events(blocks: Sequence[_Block], texts: Sequence[list[str | None]]) -> Events:
    columns = []
    for i, known in enumerate(texts):
        column: list[str | None] = []
        for block in blocks:
            codes = np.frombuffer(block.codes[i], np.uint32).tolist()
            column += [known[code] for code in codes] if codes else block.new_texts[i]
        columns.append(column)
    accounts, merchants, kinds, locations, devices = columns
    transactions = Transactions(
        [text for block in blocks for text in block.transaction_ids],
        cast("list[str]", accounts),  # nobody writes an event without these two
        cast("list[str]", merchants),
        np.frombuffer(b"".join(block.amounts for block in blocks), np.int64),
        np.frombuffer(b"".join(block.timestamps for block in blocks), np.int64),
        kinds,
        locations,
        devices,
        np.zeros(sum(len(block.transaction_ids) for block in blocks), np.int64),
    )
    return transactions, [Label(*fields) for block in blocks for fields in block.labels]
