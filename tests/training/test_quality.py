"""The file of ``just bench-quality``, read by the report: figures, what it is of, and what is wrong with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.definitions import FEATURES, LABEL_DELAY, fingerprint
from features.errors import InvalidSetting
from tests.training.evaluations import DAY, history
from training.evaluate import CARDS
from training.figures import Note, Table
from training.figures_quality import METRICS, quality_parts
from training.quality import (
    Ablated,
    Block,
    Blocks,
    BookParameters,
    Difference,
    Differences,
    Figure,
    History,
    Quality,
    Role,
    Row,
    identity,
    read,
)

OURS, THEIRS = [0.5, 0.7, 0.6], [0.4, 0.75, 0.5]


def row(model: str, values: list[float], role: Role | None = None, **fields: Any) -> Row:
    figure = Figure(float(np.mean(values)), float(np.std(values)), [*values])
    fields = {"published": {}, "candidates": [], **fields}
    return Row(
        model, "f", "d", dict.fromkeys(METRICS, figure), fit_seconds=1.0, row_microseconds=1.0, role=role, **fields
    )


def quality(of: pl.DataFrame, **fields: Any) -> Quality:
    less = np.subtract(OURS, THEIRS)
    difference = [Difference(metric, less.tolist(), float(less.mean()), float(less.std()), 2, 1) for metric in METRICS]
    published = Row("a net", "f", "published", {}, {"auc_roc": (0.8765, 0.01)}, [], None, None, None)
    to_beat = row("to beat", THEIRS, "baseline", published={"average_precision": (0.5,)})
    rows = [to_beat, published, row("champion", OURS, "champion", candidates=["xgboost"])]
    weeks = [date(2024, 1, day) for day in (8, 15, 22)]
    block = Block("t", weeks, rows)
    values: dict[str, Any] = {
        "created_at": datetime(2024, 2, 1, tzinfo=UTC),
        "history": History("h.parquet", False, **identity(of)),
        "fingerprint": fingerprint(FEATURES),
        "label_delay_days": LABEL_DELAY // DAY,
        "seed": 0,
        "book_parameters": BookParameters("published", {}),
        "blocks": Blocks(block, block, None),
        "ours_less_baseline": Differences(difference),
        "ablation": [Ablated("dear", 3, OURS, [0.4, 0.6, 0.5], THEIRS), Ablated("idle", 2, OURS, OURS, THEIRS)],
        **fields,
    }
    return Quality(**values)


def written(folder: Path, found: Quality) -> Path:
    path = folder / "quality.json"
    path.write_bytes(found.encoded())
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    gaps = row("gaps", [0.5, float("nan"), 0.5])
    found = quality(history(), blocks=Blocks(Block("t", [], [gaps]), Block("t", [], []), None))
    again = read(written(tmp_path, found))
    assert again
    assert again.blocks.chapter_3.rows[0].figures["auc_roc"] == Figure(None, None, [0.5, None, 0.5])
    assert again.history == found.history
    assert again.ablation == found.ablation
    assert read(tmp_path / "none.json") is None


def test_the_tables_show_means_deviations_and_wins(tmp_path: Path) -> None:
    compared, by_week, ablation = quality_parts(written(tmp_path, quality(history())), history(), LABEL_DELAY)
    assert isinstance(compared, Table)
    assert compared.header[3:] == ("AUC ROC", "average precision", f"card precision@{CARDS}")
    assert compared.rows[0] == ("to beat", "f", "d", *["0.5500 ±0.1472"] * 3)
    assert compared.rows[1] == ("to beat", "f", "published", "-", "0.5", "-")
    assert compared.rows[2] == ("a net", "f", "published", "0.8765 ±0.01", "-", "-")
    assert compared.rows[compared.emphasis or 0][0] == "champion"
    assert "average precision 0.6000 beside 0.5500 (better in 2 of 3 weeks)" in compared.reading
    assert "The features have changed" not in compared.reading
    assert isinstance(by_week, Table)
    assert by_week.rows[0] == (
        "AUC ROC, test weeks", "+0.0500 ±0.0707", "2 of 3", "+0.1000", "-0.0500", "+0.1000"
    )  # fmt: skip
    assert isinstance(ablation, Table)
    assert ablation.rows[0] == ("dear", "3", "-0.1000 ±0.0000", "0.5500 ±0.1472")
    assert "dearest to lose is dear (-0.1000)" in ablation.reading


def test_models_of_earlier_features_are_said_to_be(tmp_path: Path) -> None:
    compared, _, ablation = quality_parts(
        written(tmp_path, quality(history(), fingerprint="0", ablation=[])), history(), LABEL_DELAY
    )
    assert "The features have changed" in compared.reading
    assert isinstance(ablation, Note)


@pytest.mark.parametrize(
    "other",
    [
        history().head(2_999),
        history().with_columns(is_fraud=~pl.col("is_fraud")),
        history().with_columns(amount=pl.col("amount") + 1),
        history().with_columns(timestamp=pl.col("timestamp") + DAY),
    ],
)
def test_figures_of_another_history_are_not_shown(other: pl.DataFrame, tmp_path: Path) -> None:
    (note,) = quality_parts(written(tmp_path, quality(history())), other, LABEL_DELAY)
    assert isinstance(note, Note)
    assert "another history (h.parquet)" in note.reading
    assert "just bench-quality DATA" in note.reading


def test_figures_of_another_label_delay_are_not_shown(tmp_path: Path) -> None:
    (note,) = quality_parts(written(tmp_path, quality(history())), history(), LABEL_DELAY / 2)
    assert "7 days late, here they are 3.5" in note.reading


def without_a_week(content: dict[str, Any]) -> None:
    content["ablation"][0]["without"].pop()


def without_rows(content: dict[str, Any]) -> None:
    del content["blocks"]["test"]["rows"]


@pytest.mark.parametrize(
    ("damage", "says"), [(without_a_week, "group 'dear' lacks weeks"), (without_rows, "`rows`"), (None, "truncated")]
)
def test_a_broken_file_is_a_warning_and_a_note(
    damage: Callable[[dict[str, Any]], None] | None, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, quality(history()))
    if damage:
        content = json.loads(path.read_bytes())
        damage(content)
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidSetting, match=says):
        read(path)
    with caplog.at_level(logging.WARNING):
        (note,) = quality_parts(path, history(), LABEL_DELAY)
    assert isinstance(note, Note)
    assert "run it again" in note.reading
    assert says in caplog.text
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSetting, match="is not what"):
        read(path)
    with pytest.raises(InvalidSetting, match="directory"):
        read(tmp_path)


def test_without_a_file_the_note_says_what_makes_it(tmp_path: Path) -> None:
    (note,) = quality_parts(tmp_path / "none.json", history(), LABEL_DELAY)
    assert note.reading.startswith("Not measured: `just bench-quality DATA")
