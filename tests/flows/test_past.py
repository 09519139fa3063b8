"""What a history leaves in a store: all that a window can reach, and where the flow goes on."""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from bytewax.recovery import init_db_dir

from features.definitions import FEATURES, reach
from features.transaction import MICROSECOND, microseconds
from flows import past, stop
from flows.journal import Journal, Memory
from flows.settings import Settings
from flows.source import Positions
from flows.warming import PastSource, run
from tests.features.live import frame
from tests.flows.test_windows import scored_rows
from tests.flows.traffic import history

SETTINGS = Settings.from_environment({})
LATENESS = SETTINGS.allowed_lateness // MICROSECOND
POSITIONS = Positions({("transactions", 0): 12}, {("transactions", 0): 34}, 56, 0)


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "on_signals", lambda *_: None)


def test_a_history_is_remembered_and_its_positions_are(tmp_path: Path) -> None:
    transactions, labels = history(2500, days=3 * reach(FEATURES).days)
    whole = frame([*transactions, *labels])
    events = list(past.events_of(whole))
    memory = Memory(tmp_path / "journal", reach(FEATURES) // MICROSECOND)
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]  # bytewax ships it without types
    taken = run(PastSource(iter(events), POSITIONS, LATENESS, memory), SETTINGS, tmp_path)
    with closing(sqlite3.connect(tmp_path / "part-0.sqlite3")) as database:
        ((name, state),) = database.execute("SELECT step_id, ser_change FROM snaps")
    assert name == "vigie.read_v2"
    positions = pickle.loads(state)
    assert positions._replace(journal=POSITIONS.journal) == POSITIONS
    journal = Journal(memory, positions.journal)
    kept = [(scored_rows(transactions), labels) for transactions, labels in journal.past()]
    journal.close()
    assert [t for some, _ in kept for t in some] == transactions
    known = [label for label in events if label not in set(transactions)]
    assert [label for _, some in kept for label in some] == known
    assert (taken.transactions, taken.labels) == (len(transactions), len(known))
    assert taken.accounts == {t.account_id for t in transactions}
    assert taken.merchants == {t.merchant_id for t in transactions}
    assert (taken.oldest, taken.newest) == (transactions[0].timestamp, transactions[-1].timestamp)


def test_labels_come_after_the_delay_of_the_bundle() -> None:
    part = frame(history(3, days=30)[0]).with_columns(is_fraud=pl.lit(value=True))
    first = part["timestamp"][0]
    known = [getattr(event, "labelled_at", 0) for event in past.events_of(part, timedelta(days=3))]
    assert microseconds(first + timedelta(days=3)) in known
    assert microseconds(first + timedelta(days=7)) not in known
