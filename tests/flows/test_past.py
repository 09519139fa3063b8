"""What a history leaves in the states: the same, whether all of it is run through the steps or only what is reached."""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from bytewax.recovery import init_db_dir

from features.definitions import FEATURES, Entity, reach
from features.fields import END
from features.state import EntityState, Plan
from features.transaction import MICROSECOND, microseconds
from flows import past, stop
from flows.settings import Settings
from flows.source import Positions
from flows.warming import PastSource, run
from flows.windows import Saved
from tests.features.live import frame
from tests.flows.traffic import history

OfUse = tuple[list[object], dict[str, object], list[object]]  # events, labels, ids
SETTINGS = Settings.from_environment({})
LATENESS = SETTINGS.allowed_lateness // MICROSECOND
POSITIONS = Positions({("transactions", 0): 12}, {("transactions", 0): 34}, 56, 0)


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "on_signals", lambda *_: None)


def states(directory: Path, part: pl.DataFrame, watermark: int) -> dict[tuple[str, str], OfUse]:
    """What the states hold that is still of use, by step and key."""
    directory.mkdir()
    init_db_dir(directory, 1)  # type: ignore[no-untyped-call]
    run(PastSource(past.events_of(part), POSITIONS, LATENESS), FEATURES, SETTINGS, directory)
    with closing(sqlite3.connect(directory / "part-0.sqlite3")) as database:
        rows = database.execute("SELECT step_id, state_key, ser_change FROM snaps WHERE ser_change IS NOT NULL")
        saved = {(step, key): pickle.loads(state) for step, key, state in rows}
    assert saved.pop(("vigie.read_v1", "kafka")) == POSITIONS
    of_use = {key: _of_use(key[0], state, watermark) for key, state in saved.items() if isinstance(state, Saved)}
    return {key: state for key, state in of_use.items() if any(state)}


def _of_use(step: str, saved: Saved, watermark: int) -> OfUse:
    plan = Plan(FEATURES, Entity.ACCOUNT if "account" in step else Entity.MERCHANT)
    state = EntityState.unpack(plan, saved.state)
    texts = [[field.texts.split(END)[code] for code in field.codes] for field in state.fields]
    events = zip(state.instants, state.amounts, *texts, strict=True)
    ids, instants = saved.recent
    recent = zip(ids.split(END)[1:-1], memoryview(instants).cast("q"), strict=True)
    memory = (SETTINGS.duplicate_horizon - SETTINGS.allowed_lateness) // MICROSECOND
    return (
        [event for event in events if event[0] > watermark - plan.reach],
        {key: label for key, label in state.labels.items() if label[0] > watermark - plan.reach},
        [(identity, instant) for identity, instant in recent if instant >= watermark - memory],
    )


def test_what_windows_cannot_reach_leaves_nothing(tmp_path: Path) -> None:
    transactions, labels = history(2000, days=3 * reach(FEATURES).days)
    whole = frame([*transactions, *labels])
    end = past.end_of(whole)
    recent = past.since(whole, end - reach(FEATURES) // MICROSECOND - LATENESS)
    assert 0 < len(recent) < len(whole) / 2
    all_of_it = states(tmp_path / "whole", whole, end - LATENESS)
    assert len(all_of_it) > 50
    assert any(labels for _, labels, _ in all_of_it.values())
    assert states(tmp_path / "recent", recent, end - LATENESS) == all_of_it
    shorter = past.since(whole, end - reach(FEATURES) // MICROSECOND + LATENESS)
    assert states(tmp_path / "shorter", shorter, end - LATENESS) != all_of_it


def test_labels_come_after_the_delay_of_the_bundle() -> None:
    part = frame(history(3, days=30)[0]).with_columns(is_fraud=pl.lit(value=True))
    first = part["timestamp"][0]
    known = [getattr(event, "labelled_at", 0) for event in past.events_of(part, timedelta(days=3))]
    assert microseconds(first + timedelta(days=3)) in known
    assert microseconds(first + timedelta(days=7)) not in known
