"""Where a topic takes over from a history, record by record and without a broker."""

from __future__ import annotations

import pytest

from features.errors import InvalidHistory
from features.transaction import Transaction
from flows.seam import Seam, check
from flows.settings import Settings
from tests.features.histories import MONDAY
from tests.flows.traffic import DAY, pay

SETTINGS = Settings.from_environment({})  # a day of lateness, two of ids
END = MONDAY + 10 * DAY
Record = tuple[int, Transaction | None, bool]


def seam(*records: Record, low: int = 0) -> Seam:
    """Held against (offset, transaction or None where it cannot be read, whether the history has it)."""
    made = Seam(low, END, SETTINGS)
    for offset, transaction, known in records:
        made.take(offset, transaction, transaction.timestamp if transaction and known else None)
    return made


def test_an_empty_partition_is_read_from_where_it_begins() -> None:
    made = seam(low=7)
    assert (made.offset, made.lead, made.known, made.new) == (7, 0, 0, 0)


def test_what_is_all_in_the_history_is_passed_over() -> None:
    made = seam((3, pay("a", day=9.5), True), (5, pay("b", day=9), True))
    assert (made.offset, made.lead, made.known, made.new) == (6, MONDAY + 9.5 * DAY, 2, 0)


def test_reading_begins_at_the_first_record_that_is_not_in_the_history() -> None:
    made = seam(
        (3, pay("a", day=9), True),
        (8, pay("new", day=10.1), False),
        (9, pay("b", day=9.9), True),
        (10, pay("newer", day=10.2), False),
    )
    assert (made.offset, made.known, made.new, made.forgotten) == (8, 2, 2, 0)
    assert made.lead == MONDAY + 9 * DAY, "only what lies before has been read"


def test_what_cannot_be_read_is_not_in_the_history() -> None:
    made = seam((0, pay("a", day=9), True), (1, None, False), (2, pay("b", day=9.5), True))
    assert (made.offset, made.new, made.too_late) == (1, 1, 0)


def test_what_is_new_but_older_than_the_watermark_is_counted() -> None:
    made = seam(
        (0, pay("just-in-time", day=9), False), (1, pay("too-late", day=9 - 1e-6), False), (2, pay("b", day=1), True)
    )
    assert (made.new, made.too_late) == (2, 1)


@pytest.mark.parametrize(("day", "forgotten"), [(8.0, 0), (8.0 - 1e-6, 1)])
def test_ids_are_known_again_up_to_the_horizon_before_the_end_of_the_history(day: float, forgotten: int) -> None:
    made = seam((0, pay("new", day=9.8), False), (1, pay("old", day=day), True))
    assert made.forgotten == forgotten


@pytest.mark.parametrize(("day", "forgotten"), [(9.5, 0), (9.5 - 1e-6, 1)])
def test_the_horizon_moves_on_with_what_is_read_before(day: float, forgotten: int) -> None:
    made = seam((0, pay("new", day=11.5), False), (1, pay("old", day=day), True))
    assert made.forgotten == forgotten


def test_the_refusal_says_how_many_where_and_what_to_set() -> None:
    bad = seam((4, None, False), *((5 + i, pay(f"old{i}", day=i / 10), True) for i in range(3)))
    expected = r"^3 records of transactions .*\[1\] from offset 4 on: 3\).* VIGIE_DUPLICATE_HORIZON=10d .*export"
    with pytest.raises(InvalidHistory, match=expected):
        check(SETTINGS, [seam(), bad])
    check(Settings.from_environment({"VIGIE_DUPLICATE_HORIZON": "10d"}), [seam()])
