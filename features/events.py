"""The events of all entities: a slab of slots for each, by time, in pools that they share; and their cursors.

``events`` int64 [slots, 2]: instant and amount; ``refs`` int32 [slots, fields]: entries. Slabs come in sizes a quarter
apart; a freed one is used again, and ``features.compaction`` leaves out those that nobody needs.

A cursor has passed the events with ts <= t - offset, and knows their running sums. It moves to and fro, and an event
that comes late, behind it, is added to its sums; so no event is ever counted anew.
"""

from __future__ import annotations

from features.compiled import compiled
from features.entries import add, release
from features.layout import (
    AMOUNT,
    CAPACITY,
    COMPACTING,
    COUNTS,
    CURSOR,
    CURSORS,
    FIELD,
    GAIN,
    HIGH,
    INSTANT,
    LOW,
    REFERENCES,
    SIZE,
    SLAB_FREE,
    SLABS_LIVE,
    SLABS_TOP,
    SLOT,
    START,
    TALLY,
    TOTAL,
    Integers,
    Numbers,
)
from features.wide import square


@compiled
def slab_class(need: int) -> tuple[int, int]:
    """The smallest size of a slab with that many slots, and its number."""
    power, number = 4, 0
    while power * 2 <= need:
        power, number = power * 2, number + 4
    quarter = power // 4
    steps = max(0, need - power + quarter - 1) // quarter
    return power + steps * quarter, number + steps


@compiled
def after(events: Integers, low: int, high: int, t: int) -> int:
    """The first of the slots from ``low`` to before ``high`` whose instant is after t, or ``high``; also of frauds."""
    while low < high:
        middle = (low + high) >> 1
        if events[middle, INSTANT] <= t:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def copy_event(events: Integers, refs: Numbers, at: int, to: int) -> None:
    """Puts a copy of the event in the slot ``at`` into the slot ``to``."""
    events[to, INSTANT] = events[at, INSTANT]
    events[to, AMOUNT] = events[at, AMOUNT]
    for field in range(refs.shape[1]):
        refs[to, field] = refs[at, field]


@compiled
def free_slab(row: Integers, events: Integers, marks: Integers) -> None:
    """Gives the entity's slab back."""
    capacity = row[CAPACITY]
    if capacity != 0:
        if marks[COMPACTING] == 0:
            _, number = slab_class(capacity)
            events[row[START], INSTANT] = marks[SLAB_FREE + number]
            marks[SLAB_FREE + number] = row[START] + 1
        marks[SLABS_LIVE] -= capacity
        row[CAPACITY] = 0


@compiled
def move_slab(row: Integers, events: Integers, refs: Numbers, marks: Integers, need: int) -> bool:
    """Puts the entity's events into a slab with that many slots; False where the pool has no room."""
    capacity, number = slab_class(need)
    free = marks[SLAB_FREE + number]
    if free != 0:
        to = free - 1
        marks[SLAB_FREE + number] = events[to, INSTANT]
    elif marks[SLABS_TOP] + capacity <= len(events):
        to = marks[SLABS_TOP]
        marks[SLABS_TOP] += capacity
    else:
        return False
    start = row[START]
    for i in range(row[SIZE]):
        copy_event(events, refs, start + i, to + i)
    free_slab(row, events, marks)
    row[START] = to
    row[CAPACITY] = capacity
    marks[SLABS_LIVE] += capacity
    return True


@compiled
def _add(row: Integers, base: int, amount: int, sign: int) -> None:
    """Adds an amount to a cursor's running sums; with sign -1, takes it away."""
    high, low = square(amount)
    row[base + TOTAL] += sign * amount
    row[base + HIGH] += sign * high
    row[base + LOW] += sign * low


@compiled
def _count(
    row: Integers, refs: Numbers, entries: Numbers, starts: Integers, passing: Integers, cursor: int, at: int, sign: int
) -> None:
    """Counts the texts of the event in the slot ``at``, which the cursor passes; with sign -1, backwards."""
    distinct = CURSORS + CURSOR * (len(starts) - 1)
    for i in range(starts[cursor], starts[cursor + 1]):
        entry = refs[at, passing[i, FIELD]]
        if entry == 0:
            continue
        gain, count = sign * passing[i, GAIN], COUNTS + passing[i, SLOT]
        entries[entry, count] += gain
        if gain > 0 and entries[entry, count] == 1:
            row[distinct + passing[i, TALLY]] += 1
        elif gain < 0 and entries[entry, count] == 0:
            row[distinct + passing[i, TALLY]] -= 1


@compiled
def move(
    row: Integers,
    events: Integers,
    refs: Numbers,
    entries: Numbers,
    starts: Integers,
    passing: Integers,
    cursor: int,
    to: int,
) -> None:
    """The cursor passes events, forwards or backwards, until it has passed so many."""
    start, base = row[START], CURSORS + CURSOR * cursor
    n, sign = row[base], 1 if to > row[base] else -1
    while n != to:
        at = start + n if sign > 0 else start + n - 1
        _add(row, base, events[at, AMOUNT], sign)
        if starts[cursor] != starts[cursor + 1]:
            _count(row, refs, entries, starts, passing, cursor, at, sign)
        n += sign
    row[base] = n


@compiled
def advance(
    row: Integers,
    events: Integers,
    refs: Numbers,
    entries: Numbers,
    offsets: Integers,
    starts: Integers,
    passing: Integers,
    t: int,
) -> None:
    """Moves the cursors to where they belong for an event at t."""
    start, size = row[START], row[SIZE]
    for cursor in range(len(offsets)):
        limit, n = t - offsets[cursor], row[CURSORS + CURSOR * cursor]
        while n < size and events[start + n, INSTANT] <= limit:
            n += 1
        while n > 0 and events[start + n - 1, INSTANT] > limit:
            n -= 1
        if n != row[CURSORS + CURSOR * cursor]:
            move(row, events, refs, entries, starts, passing, cursor, n)


@compiled
def insert(
    row: Integers,
    number: int,
    events: Integers,
    refs: Numbers,
    entries: Numbers,
    heads: Numbers,
    marks: Integers,
    offsets: Integers,
    starts: Integers,
    passing: Integers,
    t: int,
    amount: int,
    texts: Integers,
    found: Integers,
) -> None:
    """Takes the event in at its place in time; slab and entries have room. ``found``: its entries, -1: missing."""
    start, size = row[START], row[SIZE]
    end = start + size
    at = end
    if size != 0 and t < events[end - 1, INSTANT]:
        at = after(events, start, end, t)
        for i in range(end, at, -1):
            copy_event(events, refs, i - 1, i)
    events[at, INSTANT] = t
    events[at, AMOUNT] = amount
    for field in range(refs.shape[1]):
        entry = found[field]
        if entry == 0:
            entry = add(entries, heads, marks, number * refs.shape[1] + field, texts[field])
        if entry > 0:
            entries[entry, REFERENCES] += 1
        refs[at, field] = max(entry, 0)
    row[SIZE] = size + 1
    if at < end:
        for cursor in range(len(offsets)):
            base = CURSORS + CURSOR * cursor
            if row[base] > at - start:
                _add(row, base, amount, 1)
                _count(row, refs, entries, starts, passing, cursor, at, 1)
                row[base] += 1


@compiled
def drop(
    row: Integers,
    events: Integers,
    refs: Numbers,
    entries: Numbers,
    heads: Numbers,
    marks: Integers,
    offsets: Integers,
    starts: Integers,
    passing: Integers,
    n: int,
) -> None:
    """Forgets the entity's first n events."""
    start, size = row[START], row[SIZE]
    for cursor in range(len(offsets)):
        base = CURSORS + CURSOR * cursor
        if row[base] < n:
            move(row, events, refs, entries, starts, passing, cursor, n)
        row[base] -= n
    for i in range(start, start + n):
        for field in range(refs.shape[1]):
            if refs[i, field] != 0:
                release(entries, heads, marks, refs[i, field])
    for i in range(start + n, start + size):
        copy_event(events, refs, i, i - n)
    row[SIZE] = size - n
    if row[SIZE] == 0:
        free_slab(row, events, marks)
