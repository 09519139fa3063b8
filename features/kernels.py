"""What is done with a batch of events, row by row, and with entities that are idle.

All arrays of a plan, of the states and of the labels come as three tuples, in the order in which they are unpacked
here. A kernel that lacks something stops and says what in ``marks``; it goes on once Python has seen to it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import compiled
from features.entries import chain, find, has_room
from features.events import advance, after, drop, insert, move_slab, slab_class
from features.layout import (
    BEGIN,
    CAPACITY,
    CURSOR,
    CURSORS,
    END,
    FETCHED,
    FOR_ENTRIES,
    FOR_FRAUDS,
    FOR_SLABS,
    INSTANT,
    KNOWN,
    NEVER,
    NEWEST,
    OLDEST,
    OWNER,
    SIZE,
    START,
    STOPPED,
    UNUSED,
    Floats,
    Integers,
    Numbers,
)
from features.windowed import PARTS, look, measure

PlanArrays = tuple[Integers, Integers, Integers, Integers, Integers]
StateArrays = tuple[Integers, Integers, Numbers, Numbers, Numbers, Integers]
LabelArrays = tuple[Integers, Integers]

# What to do: give features, take events in, or both.
GET: Final = 1
UPDATE: Final = 2
TAKE: Final = 3

AHEAD: Final = 16  # rows; few, for what was read must still be near


@compiled
def run(  # noqa: C901, PLR0912  # stops where it must
    mode: int,
    plan: PlanArrays,
    states: StateArrays,
    labels: LabelArrays,
    until: int,
    missing: int,
    numbers: Integers,
    times: Integers,
    sums: Integers,
    texts: Integers,
    out: Floats,
    begin: int,
) -> int:
    """The rows of a batch from ``begin`` on; gives the row at which it stopped, or how many there are.

    ``until``: what no window reaches any more. ``numbers``: the entities' rows. ``texts`` [fields, rows]: hashes,
    ``missing`` for none.
    """
    offsets, starts, passing, windows, steps = plan
    rows, events, refs, entries, heads, marks = states
    known, frauds = labels
    fields = texts.shape[0]
    found = np.zeros(fields, np.int64)
    words = np.zeros(fields, np.int64)
    parts = np.zeros((len(windows), PARTS), np.int64)
    deviations = np.zeros(len(windows), np.float64)
    for i in range(begin, len(numbers)):
        if (i - begin) % AHEAD == 0:
            marks[FETCHED] = _fetch(mode, plan, states, numbers[i : i + AHEAD], texts[:, i : i + AHEAD])
        number, t, amount = numbers[i], times[i], sums[i]
        row = rows[number]
        labelled = row[KNOWN]
        for field in range(fields):
            words[field] = texts[field, i]
            found[field] = -1
            if words[field] != missing:
                found[field] = find(entries, heads, marks, number * fields + field, words[field])
        if mode & GET:
            if labelled != 0 and not known[labelled, BEGIN] <= t < known[labelled, END]:
                marks[STOPPED] = FOR_FRAUDS
                return i
            advance(row, events, refs, entries, offsets, starts, passing, t)
            look(row, windows, events, known, frauds, t, parts, deviations)
            measure(
                row,
                steps,
                events,
                entries,
                frauds,
                t,
                amount,
                found,
                parts,
                deviations,
                out[i],
            )
        if mode & UPDATE:
            if row[SIZE] == row[CAPACITY]:
                if _drop_old(row, states, plan, until):
                    for field in range(fields):
                        if found[field] > 0:  # the entry may have gone with its last event
                            found[field] = find(entries, heads, marks, number * fields + field, words[field])
                if row[SIZE] == row[CAPACITY] and not move_slab(row, events, refs, marks, row[SIZE] + 1):
                    marks[STOPPED] = FOR_SLABS
                    return i
            if not has_room(entries, marks, fields):
                marks[STOPPED] = FOR_ENTRIES
                return i
            insert(
                row,
                number,
                events,
                refs,
                entries,
                heads,
                marks,
                offsets,
                starts,
                passing,
                t,
                amount,
                words,
                found,
            )
            if labelled != 0 and t <= known[labelled, NEWEST]:
                known[labelled, BEGIN] = NEVER
    return len(numbers)


@compiled
def sweep(
    plan: PlanArrays,
    states: StateArrays,
    labels: LabelArrays,
    until: int,
    begin: int,
    end: int,
    idle: Integers,
) -> int:
    """Drops what is at ``until`` and before from the rows between; shrinks slabs that are half empty.

    Into ``idle`` go the numbers of the rows with nothing left, and (negative) of those whose labels are old: how many.
    """
    rows, events, refs, _, _, marks = states
    known = labels[0]
    listed = 0
    for number in range(begin, end):
        row = rows[number]
        if row[START] == UNUSED:
            continue
        if _drop_old(row, states, plan, until):
            need, _ = slab_class(row[SIZE] + 1)
            if row[SIZE] != 0 and row[CAPACITY] >= 2 * need:
                move_slab(row, events, refs, marks, need)
        if row[KNOWN] != 0 and known[row[KNOWN], OLDEST] <= until:
            idle[listed] = -number
            listed += 1
        elif row[SIZE] == 0 and row[KNOWN] == 0:
            idle[listed] = number
            listed += 1
    return listed


@compiled
def _drop_old(row: Integers, states: StateArrays, plan: PlanArrays, until: int) -> bool:
    """Drops the events at ``until`` and before, if these are more than an eighth: dropping moves the others."""
    offsets, starts, passing, _, _ = plan
    _, events, refs, entries, heads, marks = states
    start, size = row[START], row[SIZE]
    if size == 0:
        return False
    old = after(events, start, start + size, until) - start
    if old * 8 <= size:
        return False
    drop(row, events, refs, entries, heads, marks, offsets, starts, passing, old)
    return True


@compiled
def _fetch(  # noqa: C901  # loops over what is far apart
    mode: int, plan: PlanArrays, states: StateArrays, numbers: Integers, texts: Integers
) -> int:
    """Reads, of some rows, what will be needed soon, for nothing but to have it near; the result means nothing.

    A processor can wait for many reads at once, where the rows' work would wait for one after the other.
    """
    offsets = plan[0]
    rows, events, refs, entries, heads, marks = states
    read = 0
    for i in range(len(numbers)):
        for column in range(0, rows.shape[1], 8):
            read ^= rows[numbers[i], column]
        for field in range(len(texts)):
            read ^= heads[chain(numbers[i] * len(texts) + field, texts[field, i], marks)]
    for i in range(len(numbers)):
        row = rows[numbers[i]]
        if row[SIZE] != 0:
            newest = row[START] + row[SIZE] - 1
            read ^= events[newest, INSTANT]
            if mode & GET:
                for cursor in range(len(offsets)):
                    read ^= events[min(row[START] + row[CURSORS + CURSOR * cursor], newest), INSTANT]
        for field in range(len(texts)):
            at = heads[chain(numbers[i] * len(texts) + field, texts[field, i], marks)]
            read ^= entries[at, OWNER]
    for i in range(len(numbers)):
        row = rows[numbers[i]]
        if mode & GET and row[SIZE] != 0:
            for field in range(len(texts)):  # the newest event comes into windows
                read ^= entries[refs[row[START] + row[SIZE] - 1, field], OWNER]
    return read
