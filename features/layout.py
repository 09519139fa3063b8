"""Where what lies in the arrays of ``features.state``: column numbers, shared by Python and the kernels; how they grow.

``rows`` int64 [entities, width]: START, SIZE and CAPACITY of its slab of events, the number of its KNOWN frauds' row,
then four columns a cursor, then the distinct counts, one a tally. Row 0 is an entity without events.
``marks`` int64: what the kernels keep of the pools, and what they say when they stop.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_STEP: Final = 4_000_000  # bytes

Integers = NDArray[np.int64]
Numbers = NDArray[np.int32]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# rows
START: Final = 0
SIZE: Final = 1
CAPACITY: Final = 2
KNOWN: Final = 3
CURSORS: Final = 4

# In a cursor's four columns: how many events it has passed, the sum of their amounts, and of the squares' limbs.
TOTAL: Final = 1
HIGH: Final = 2
LOW: Final = 3
CURSOR: Final = 4

UNUSED: Final = -1  # the START of a row that has no entity

# events int64 [slots, 2], and the same two columns of frauds
INSTANT: Final = 0
AMOUNT: Final = 1  # of a fraud: the sum of the amounts of those before

# marks
STOPPED: Final = 0  # why the kernel returned early
SLABS_TOP: Final = 1  # the first event slot that no slab has
ENTRIES_TOP: Final = 2  # the first number that no entry had
ENTRY_FREE: Final = 3  # the first of the chain of freed entries
ENTRIES_FREE: Final = 4  # how many these are
SLABS_LIVE: Final = 5  # slots of slabs that have an entity
CHAINS: Final = 6  # of entries, and the least power of two above, less one
CHAINS_MASK: Final = 7
FETCHED: Final = 8
COMPACTING: Final = 9  # whether ``features.compaction`` is under way: freed slabs are not used again
SLAB_FREE: Final = 10  # here begin the chains of freed slabs, by class: the first one's start + 1
CLASSES: Final = 192

# STOPPED
FOR_FRAUDS: Final = 1
FOR_SLABS: Final = 2
FOR_ENTRIES: Final = 3

# known int64 [labelled entities, 6]: what ``features.frauds`` says of each.
BEGIN: Final = 0
END: Final = 1
NEWEST: Final = 2
FRAUDS: Final = 3  # where its frauds begin
COUNT: Final = 4
OLDEST: Final = 5  # the oldest instant that a label names
NEVER: Final = (1 << 63) - 1

# windows int64 [windows, 6]
UNTIL: Final = 0  # its cursors
SINCE: Final = 1
FIRST: Final = 2  # its bounds
SECOND: Final = 3
SPREAD: Final = 4  # whether deviations are asked for
LABELS: Final = 5  # 1: frauds are asked for; 2: and the newest honest event

# entries int32 [numbers, COUNTS and a count for each tally of a field]. OWNER is the entity's row and the field.
HASH_LOW: Final = 0
HASH_HIGH: Final = 1
OWNER: Final = 2
NEXT: Final = 3
REFERENCES: Final = 4
COUNTS: Final = 5

# passing int64 [., 4]
TALLY: Final = 0
FIELD: Final = 1
SLOT: Final = 2
GAIN: Final = 3

# steps int64 [features, 4]
CODE: Final = 0
WINDOW: Final = 1
EXTRA: Final = 2
OTHER: Final = 3


def lengthen(array: NDArray[np.generic], length: int) -> None:
    """Puts zeros after it, so that it is that long at least: an eighth more, or 4 MB where that is less.

    It is done in place: where an array is large, its memory gets another address, and nothing is copied. The zeros are
    written, which for an eighth of a large array would be a pause.
    """
    more = min(len(array) // 8, _STEP // max(1, array[:1].nbytes))
    array.resize((max(length, len(array) + more) + 16, *array.shape[1:]), refcheck=False)
