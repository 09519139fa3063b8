"""The journal: what was saved comes back as it was, what was not is gone, and damage is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidStore
from features.transaction import Label, Transaction
from flows import journal, segment
from flows.journal import NOTHING, Journal, Memory, Position
from flows.records import Transactions
from tests.features.oracle import Record
from tests.flows.test_windows import scored_rows
from tests.flows.traffic import DAY, pay

KEEP = 10 * DAY


@contextmanager
def opened(folder: Path, position: Position = NOTHING) -> Iterator[Journal]:
    journal = Journal(Memory(folder, KEEP), position)
    try:
        yield journal
    finally:
        journal.close()


def add(journal: Journal, records: Sequence[Record]) -> None:
    transactions = [record for record in records if isinstance(record, Transaction)]
    journal.add(Transactions.of(transactions), [record for record in records if isinstance(record, Label)])


def past(journal: Journal) -> list[Record]:
    found: list[Record] = []
    for transactions, labels in journal.past():
        found += [*scored_rows(transactions), *labels]
    return found


texts = st.text(min_size=1, max_size=3)
instants = st.integers(0, 100)
amounts = st.integers(-(10**12), 10**12)
optional = st.none() | texts
events: st.SearchStrategy[Record] = st.one_of(
    st.builds(Transaction, texts, texts, texts, amounts, instants, optional, optional, optional),
    st.builds(Label, texts, texts, texts, instants, st.booleans(), instants),
)


def in_parts(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: isinstance(record, Label))


batches = st.lists(events, max_size=4)


@given(st.lists(st.tuples(st.lists(batches, max_size=3), batches), max_size=4), st.integers(1, 5), st.integers(1, 5))
def test_what_was_saved_comes_back_and_what_was_not_does_not(
    runs: list[tuple[list[list[Record]], list[Record]]], segment: int, block: int
) -> None:
    kept: list[Record] = []
    position = NOTHING
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "sync", lambda _: None)  # no need to wait for the disk so often
        patch.setattr(os, "fdatasync", lambda _: None)
        patch.setattr(journal, "SEGMENT", segment)
        patch.setattr(journal, "BLOCK", block)
        for saved, not_saved in [*runs, ([], [])]:
            with opened(Path(folder), position) as written:
                assert in_parts(past(written)) == in_parts(kept)
                for some in saved:
                    add(written, some)
                    position = written.save(0)
                    kept += some
                add(written, not_saved)


def test_journals_from_when_ids_were_numbered_too_are_read(tmp_path: Path) -> None:
    payments = [pay(str(i), day=i / 10, account=f"a{i % 3}") for i in range(20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "NUMBERED", frozenset(segment.COLUMNS))
        with opened(tmp_path) as written:
            add(written, payments[:10])
            position = written.save(0)
    with opened(tmp_path, position) as written:
        assert past(written) == payments[:10]
        add(written, payments[10:])
        position = written.save(0)
    with opened(tmp_path, position) as written:
        assert past(written) == payments


def test_segments_go_when_no_window_reaches_them_and_not_before_a_later_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEGMENT", 10)

    def files() -> list[str]:
        return sorted(file.stem.lstrip("0") for file in tmp_path.glob("*.journal"))

    payments = [pay(str(i), day=i / 10) for i in range(60)]
    begin = payments[0].timestamp
    with opened(tmp_path) as written:
        for start in range(0, 60, 10):
            add(written, payments[start : start + 10])
            position = written.save(begin)
        assert files() == ["1", "2", "3", "4", "5", "6", "7"]
        reached = payments[20].timestamp + KEEP
        position = written.save(reached)
        assert position.first == 3
        assert len(files()) == 7, "a crash now goes on from the save before"
        position = written.save(reached)
        assert files() == ["3", "4", "5", "6", "7"]
    with opened(tmp_path, position) as written:
        assert past(written) == payments[20:]
        position = written.save(reached + 2 * DAY)
        position = written.save(reached + 2 * DAY)
        assert files() == ["5", "6", "7", "8"], "known of segments of an earlier run, too"
    with opened(tmp_path, position) as written:
        assert past(written) == payments[40:]


def test_without_a_position_nothing_that_is_there_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as written:
        add(written, [pay("x", day=0)])
        written.save(0)
    with opened(tmp_path) as written:
        assert past(written) == []


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda file: file.unlink(), r"lacks the segments \[1\] of 1 to 2.*just warm"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), r"damaged at byte 0; restore it"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), r"damaged at byte 0; restore it"),
        (lambda file: file.write_bytes(file.read_bytes() + b"?"), r"damaged at byte \d+; restore it"),
    ],
)
def test_damage_is_named_with_what_to_do(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    with opened(tmp_path) as written:
        add(written, [pay("x", day=0)])
        position = written.save(0)
    with opened(tmp_path, position) as written:
        add(written, [pay("y", day=0)])
        position = written.save(0)
    harm(tmp_path / "00000001.journal")
    with pytest.raises(InvalidStore, match=message), opened(tmp_path, position) as written:
        past(written)


def test_a_last_segment_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as written:
        add(written, [pay("x", day=0)])
        position = written.save(0)
    file = tmp_path / "00000001.journal"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InvalidStore, match=rf"has {position.length - 3} bytes, and {position.length} were saved"):
        Journal(Memory(tmp_path, KEEP), position)


def test_a_text_is_written_once_a_segment(tmp_path: Path) -> None:
    location = "Saint-Remy-en-Bouzemont-Saint-Genest-et-Isson"
    payments = [Transaction(str(i), "a", "m", 1, DAY + i, None, location) for i in range(10)]
    with opened(tmp_path) as written:
        for payment in payments:
            add(written, [payment])
            position = written.save(0)
    content = (tmp_path / "00000001.journal").read_bytes()
    assert content.count(location.encode()) == 1
    with opened(tmp_path, position) as written:
        assert past(written) == payments
