from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.errors import InvalidHistory
from tests.training.evaluations import evaluation, features, history
from training.report import HERE, figures, render, render_data

DATA = {"by_day", "amounts", "clock", "separation", "distributions", "correlations"}
MODELS = {"roc", "precision_recall", "calibration", "score_spread", "confusion", "alerts", "card_precision"}
MODELS |= {"alerts_by_day"}
USE = {"importances", "recall_by_kind", "recall_by_amount", "recall_by_hour"}
HOSTILE = "</script><img src='https://example.org/x.png'>"


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, the text outside scripts, and the data scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.data: dict[str, Any] = {}
        self.open: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = (tag, dict(attrs))
        self.elements.append(self.open)

    def handle_endtag(self, tag: str) -> None:
        if tag == self.open[0]:
            self.open = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self.open
        if tag == "script" and attributes.get("type") == "application/json":
            self.data[str(attributes["id"])] = json.loads(data)
        elif tag not in {"script", "style"}:
            self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("report") / "models" / "v1" / "report.html"
    data = history()
    render(evaluation(data), data, features(data), path)
    assert path.stat().st_size < 6_000_000
    return Page(path)


def test_the_page_loads_nothing(page: Page) -> None:
    loads = page.values("src") + page.values("href") + page.values("srcset") + page.values("action")
    assert loads
    assert all(load.startswith("#") or load == "data:," for load in loads)
    assert {tag for tag, _ in page.elements}.isdisjoint({"iframe", "object", "embed", "img", "base", "form"})
    assert page.data["config"]["showSendToCloud"] is False


def test_style_and_script_of_the_page_name_no_address() -> None:
    for name in ("report.css", "report.js"):
        text = (HERE / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|url\(|@import|fetch\(|import\(", text)


def test_every_figure_has_its_place_and_every_link_its_target(page: Page) -> None:
    ids = page.values("id")
    assert set(page.data["figures"]) == DATA | MODELS | USE
    assert set(page.data["figures"]) <= set(ids)
    assert len(set(ids)) == len(ids)
    assert {link for link in page.values("href") if link.startswith("#")} <= {f"#{name}" for name in ids}


def test_the_page_brings_the_look_once_for_light_and_dark(page: Page) -> None:
    assert set(page.data["themes"]) == {"light", "dark"}
    assert all("template" not in figure["layout"] for figure in page.data["figures"].values())
    assert all(figure["layout"]["height"] >= 100 for figure in page.data["figures"].values())


def test_the_split_stands_before_the_data(page: Page) -> None:
    text = " ".join(page.text)
    for what, days in evaluation().split.describe():
        assert what in text
        assert days in text
    assert text.index("Which days are what") < text.index("The history") < text.index("The candidates")


def test_rows_that_are_not_judged_are_counted(tmp_path: Path) -> None:
    data = history()
    tested = evaluation(data)
    known = evaluation(data.filter(pl.col("account_id") != "7"))
    assert known.y.size < tested.y.size
    render(known, data, features(data), tmp_path / "report.html")
    assert f"judged on {known.y.size} of the {tested.y.size} transactions" in " ".join(
        Page(tmp_path / "report.html").text
    )


def test_every_figure_is_introduced_by_a_sentence_with_a_figure(page: Page) -> None:
    readings = [i for i, (tag, attributes) in enumerate(page.elements) if attributes.get("class") == "reading"]
    assert len(readings) == len([1 for _, attributes in page.elements if attributes.get("class") == "part"])
    assert all(page.elements[i - 1][0] == "h3" for i in readings)


def test_data_alone_has_the_data_part_only(tmp_path: Path) -> None:
    data = history()
    render_data(data, features(data), tmp_path / "data.html")
    page = Page(tmp_path / "data.html")
    assert set(page.data["figures"]) == DATA
    assert "3,000 transactions, 2024-01-01 to 2024-01-30 (UTC)." in " ".join(page.text)


def test_names_in_the_data_stay_names(tmp_path: Path) -> None:
    data = history()
    data = data.with_columns(fraud_scenario=pl.when("is_fraud").then(pl.lit(HOSTILE)))
    tested = evaluation(data, candidates={HOSTILE: evaluation(data).candidates["xgboost"]}, budget=3)
    render(tested, data, features(data), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "img" not in {tag for tag, _ in page.elements}
    assert set(page.data["figures"]) == DATA | MODELS | USE
    figures_of = page.data["figures"]
    shown = [figures_of["by_day"]["data"][1]["name"], *figures_of["recall_by_kind"]["data"][0]["y"]]
    assert shown == ["&lt;/script&gt;&lt;img src='https://example.org/x.png'&gt;"] * 2
    assert figures_of["roc"]["data"][0]["name"].startswith("&lt;/script&gt;")


@pytest.mark.parametrize("flag", [False, True])
def test_held_out_rows_of_one_class_give_the_data_part_and_a_note(flag: bool, tmp_path: Path) -> None:
    data = history()
    tested = evaluation(data, y=np.full(evaluation(data).y.size, flag))
    render(tested, data, features(data), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert set(page.data["figures"]) == DATA | {"importances", "alerts_by_day"}
    assert f"There are no {'honest transactions' if flag else 'frauds'} among the" in " ".join(page.text)
    assert set(figures(tested)) == {"importances", "alerts_by_day"}


@pytest.mark.parametrize("flag", [False, True])
def test_a_history_of_one_class_gives_its_data_part(flag: bool, tmp_path: Path) -> None:
    data = history(rows=50, is_fraud=[flag] * 50, fraud_scenario=None)
    render_data(data, features(data), tmp_path / "data.html")
    assert set(Page(tmp_path / "data.html").data["figures"]) == {"by_day", "amounts", "clock"}


def test_a_history_without_rows_is_refused(tmp_path: Path) -> None:
    data = history().clear()
    with pytest.raises(InvalidHistory, match="no rows"):
        render_data(data, features(data), tmp_path / "data.html")


def test_features_of_other_rows_are_refused(tmp_path: Path) -> None:
    data = history()
    with pytest.raises(InvalidHistory, match="3000 rows but the features have 10"):
        render_data(data, features(data.head(10)), tmp_path / "data.html")


def test_figures_for_a_tracker_have_their_titles_and_leave_the_page_alone() -> None:
    tested = evaluation()
    named = figures(tested)
    assert set(named) == MODELS | USE
    for name, figure in named.items():
        assert figure.layout.title.text
        assert re.fullmatch(r"[a-z_]+", name)
        json.loads(figure.to_json())
