"""The texts of all entities' events, as numbered entries of one hash table.

An entry is one text of one field of one entity, known by the 64-bit hash of the text. It counts the events that refer
to it, and for each tally of its field those of them that are in the tally's window; it goes with its last event, and
its number is used again. Number 0 is no entry: the text is missing.

``entries`` int32 [numbers, COUNTS + tallies of a field]; ``heads`` int32 [numbers]: the first entry of each chain;
``marks``: see ``features.layout``. Chains are split one at a time as entries come (linear hashing, Litwin 1980).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import compiled
from features.layout import (
    CHAINS,
    CHAINS_MASK,
    ENTRIES_FREE,
    ENTRIES_TOP,
    ENTRY_FREE,
    HASH_HIGH,
    HASH_LOW,
    NEXT,
    OWNER,
    REFERENCES,
    Integers,
    Numbers,
)

_UNUSED: Final = -1
_SPREAD_OWNER: Final = -7046029254386353131
_SPREAD: Final = -4417276706812531889


@compiled
def chain(owner: int, text: int, marks: Integers) -> int:
    """Which chain an entry belongs to. Hashes of texts are random in each process: nobody can fill one chain."""
    mixed = (((text ^ (np.int64(owner) * _SPREAD_OWNER)) * _SPREAD) >> 32) & marks[CHAINS_MASK]
    return int(mixed if mixed < marks[CHAINS] else mixed & (marks[CHAINS_MASK] >> 1))


@compiled
def find(entries: Numbers, heads: Numbers, marks: Integers, owner: int, text: int) -> int:
    """The entry's number, 0 where there is none."""
    low, high = np.int32(text), np.int32(text >> 32)
    at: int = heads[chain(owner, text, marks)]
    while at != 0:
        if entries[at, HASH_LOW] == low and entries[at, HASH_HIGH] == high and entries[at, OWNER] == owner:
            break
        at = entries[at, NEXT]
    return at


@compiled
def has_room(entries: Numbers, marks: Integers, fields: int) -> bool:
    """Whether one more event's texts can have entries."""
    room: int = len(entries) - marks[ENTRIES_TOP] + marks[ENTRIES_FREE]
    return room >= fields


@compiled
def add(entries: Numbers, heads: Numbers, marks: Integers, owner: int, text: int) -> int:
    """A new entry that no event refers to yet. There must be room."""
    at: int = marks[ENTRY_FREE]
    if at != 0:
        marks[ENTRY_FREE] = entries[at, NEXT]
        marks[ENTRIES_FREE] -= 1
    else:
        at = marks[ENTRIES_TOP]
        marks[ENTRIES_TOP] += 1
    if marks[ENTRIES_TOP] - marks[ENTRIES_FREE] > marks[CHAINS]:
        _split(entries, heads, marks)
    head = chain(owner, text, marks)
    entries[at, HASH_LOW] = np.int32(text)
    entries[at, HASH_HIGH] = np.int32(text >> 32)
    entries[at, OWNER] = owner
    entries[at, NEXT] = heads[head]
    entries[at, REFERENCES:] = 0
    heads[head] = at
    return at


@compiled
def release(entries: Numbers, heads: Numbers, marks: Integers, at: int) -> None:
    """One event less refers to the entry."""
    entries[at, REFERENCES] -= 1
    if entries[at, REFERENCES] != 0:
        return
    head = chain(entries[at, OWNER], _text(entries, at), marks)
    if heads[head] == at:
        heads[head] = entries[at, NEXT]
    else:
        before = heads[head]
        while entries[before, NEXT] != at:
            before = entries[before, NEXT]
        entries[before, NEXT] = entries[at, NEXT]
    entries[at, OWNER] = _UNUSED
    entries[at, NEXT] = marks[ENTRY_FREE]
    marks[ENTRY_FREE] = at
    marks[ENTRIES_FREE] += 1


@compiled
def _split(entries: Numbers, heads: Numbers, marks: Integers) -> None:
    """Makes two chains of one: there is one more with every entry, and never a pause in which all are made anew."""
    new = marks[CHAINS]
    if new > marks[CHAINS_MASK]:
        marks[CHAINS_MASK] = 2 * marks[CHAINS_MASK] + 1
    marks[CHAINS] += 1
    old = new & (marks[CHAINS_MASK] >> 1)
    at = heads[old]
    heads[old] = heads[new] = 0
    while at != 0:
        following = entries[at, NEXT]
        head = chain(entries[at, OWNER], _text(entries, at), marks)
        entries[at, NEXT] = heads[head]
        heads[head] = at
        at = following


@compiled
def _text(entries: Numbers, at: int) -> int:
    """The hash of the entry's text."""
    return int((np.int64(entries[at, HASH_HIGH]) << 32) | (np.int64(entries[at, HASH_LOW]) & 0xFFFF_FFFF))
