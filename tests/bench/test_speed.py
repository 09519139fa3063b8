"""Goals, tables and the page of the speed benchmark, from given results."""

from __future__ import annotations

import html
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench import machine as machines
from bench.contenders import ALL, NAIVE
from bench.growth import shortened
from bench.machine import machine
from bench.peers.naive import calibrated
from bench.soak import trend
from bench.speed import FULL, QUICK, parser
from bench.speed_page import page
from bench.speed_results import Contestant, Outcome, goals, ratio
from bench.speed_tables import LATENCIES, latency_rows, markdown, speeds
from bench.throughput import differing
from features.definitions import DAY, feature_set
from tests.bench.speeds import latency, outcome, speed

BY_NAME = {contender.name: contender for contender in ALL}


def contestant(name: str, *rates: float, cpu: float = 100.0) -> Contestant:
    return Contestant(name=name, title=name, guarantee="", runs=[speed(rate, cpu) for rate in rates])


def test_a_ratio_is_of_runs_of_one_round() -> None:
    made = outcome(contestants=[contestant("vigie-1", 100, 10, 90), contestant("naive", 10, 1, 3)])
    assert ratio(made, "vigie-1", "naive", "throughput") == 10  # the median of 10, 10 and 30; of medians it is 30
    assert ratio(made, "vigie-1", "flink", "throughput") is None


def test_goals_are_judged() -> None:
    found = goals(outcome())
    assert [goal.found for goal in found] == pytest.approx([60, 4, 6, 2, 1, 2, 100 * (1 - 6000 / 6400), 80])
    assert [goal.met for goal in found] == [True, False, True, False, True, True, True, True]


@pytest.mark.parametrize(("wanted", "tail"), [(True, 100.0), (False, 100.1), (None, None)])
def test_the_tail_is_judged_at_half_of_saturation_with_a_hundred_thousand_accounts(
    wanted: bool | None, tail: float | None
) -> None:
    others = [latency(share=0.25, tail=500.0), latency(accounts=1000, tail=500.0), latency("loop", tail=500.0)]
    assert goals(outcome(latencies=[*others, latency(tail=tail)]))[-1].met is wanted


def test_two_processes_are_judged_by_the_cpu_of_two_flows_apart() -> None:
    contestants = [contestant("vigie-1", 100, cpu=30.0), contestant("vigie-2", 9, 9, 9, cpu=80.0)]
    made = outcome(contestants=contestants, beside=[50.0, 30.0, 70.0])
    (goal,) = (goal for goal in goals(made) if goal.text.startswith("two processes"))
    assert goal.found == pytest.approx(1.25)
    assert goal.met is False


def test_what_was_not_measured_is_no_goal_missed() -> None:
    assert {goal.met for goal in goals(outcome(contestants=[], latencies=[], beside=[]))} == {None}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({0: 0.5, 1: 0.25}, None),
        ({0: 0.5 + 9e-7, 1: 0.25}, None),
        ({0: 0.5, 1: 0.2501}, r"1 of 2 .* t1: 0\.2501 instead of 0\.25"),
        ({0: 0.5}, r"1 of 2 .* t1: None"),
        ({0: math.nan, 1: 0.25}, r"1 of 2 .* t0: nan"),
    ],
)
def test_scores_that_differ_are_found(found: dict[int, float], says: str | None) -> None:
    said = differing(BY_NAME["loop"], found, [0.5, 0.25])
    assert (said is None) if says is None else re.search(says, said or "")


def test_the_naive_way_may_differ_a_little_more() -> None:
    found = {0: 0.5 + 5e-6}
    assert differing(BY_NAME["loop"], found, [0.5])
    assert not differing(BY_NAME[NAIVE], found, [0.5])


def test_the_file_can_be_read_back() -> None:
    made = outcome()
    assert msgspec.json.decode(msgspec.json.encode(made), type=Outcome) == made


def test_tables_have_what_was_found() -> None:
    made = outcome(left_out={"quix": "no network\nmore"})
    assert speeds(made)[0][:2] == ("Vigie, 1 process", "6,000")
    (row, *_) = latency_rows(made)
    assert dict(zip(LATENCIES, row, strict=True))["p99.9"] == "80.0"
    assert dict(zip(LATENCIES, row, strict=True))["p99.99"] == "-"
    text = markdown(made)
    assert "Left out: quix (no network)." in text
    assert "| throughput over that of Quix Streams | at least 5 x | 4.00 x | not met |" in text
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, block


@pytest.mark.parametrize(
    "made",
    [
        outcome,
        lambda: outcome(contestants=[], latencies=[], growth=[], holdings=[]),
        lambda: outcome(soak=None, latencies=[latency()], left_out={"flink": "no <java>"}),
        lambda: outcome(latencies=[]),
    ],
    ids=["all", "soak", "left out", "no latency"],
)
def test_the_page_needs_nothing_but_a_browser(made: Callable[[], Outcome], tmp_path: Path) -> None:
    page(made(), tmp_path / "speed.html")
    text = (tmp_path / "speed.html").read_text(encoding="utf-8")
    head, _, _ = text.partition("<script>")
    assert not re.search(r"(src|href)=\"(https?:)?//", head), "the page itself fetches nothing"
    assert "A processor" in head
    assert "<java>" not in text
    figures = msgspec.json.decode(re.findall(r'id="figures">(.*?)</script>', text, re.DOTALL)[0])
    places = re.findall(r' id="([^"]+)"', head)
    assert sorted(set(places)) == sorted(places), "a figure would be drawn into what has its name"
    assert set(figures) <= set(places)


def test_the_page_has_every_contender_and_goal(tmp_path: Path) -> None:
    made = outcome()
    page(made, tmp_path / "speed.html")
    head = (tmp_path / "speed.html").read_text(encoding="utf-8").partition("<script>")[0]
    assert all(f"<td>{contender.title}</td>" in head for contender in ALL)
    assert all(html.escape(goal.text) in head for goal in goals(made))


def test_contenders_are_called_differently_and_sizes_know_them() -> None:
    assert len(BY_NAME) == len(ALL)
    for size in (FULL, QUICK):
        assert {*size.contenders, *size.peers_live} <= set(BY_NAME)
    assert set(FULL.contenders) == set(BY_NAME)
    assert parser().parse_args(["--soak", "10"]).soak == 10


def test_the_versions_of_peers_are_those_that_are_pinned() -> None:
    versions = machine(Path("log")).versions
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions["quixstreams"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions["apache-flink"])


def test_the_brokers_log_is_in_memory_only_where_there_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(machines, "LOG", 1)
    assert machines.log_folder() == tmp_path
    assert machine(tmp_path).log == "in memory"
    monkeypatch.setattr(machines, "LOG", 1 << 60)
    assert machines.log_folder() == Path(tempfile.gettempdir())
    assert machine(Path(tempfile.gettempdir())).log == "on a disk that all share"
    monkeypatch.setattr(machines, "LOG", 1)
    monkeypatch.setattr(machines, "SHARED_MEMORY", tmp_path / "none")
    assert machines.log_folder() == Path(tempfile.gettempdir())


def test_shortened_features_are_as_many_and_look_no_farther() -> None:
    for days in (1, 7, 30, 90):
        found = shortened(feature_set(), days)
        assert len(found) == len(feature_set())
        assert max(f.window for f in found if f.window) == days * DAY
    assert shortened(feature_set(), 90) == list(feature_set())


def test_a_growing_memory_is_told_from_a_steady_one() -> None:
    seconds = [120.0 + 10.0 * nth for nth in range(60)]
    noise = [1000 * (-1) ** nth for nth in range(60)]
    slope, error = trend(seconds, [10**8 + wave for wave in noise])
    assert abs(slope) <= error
    slope, error = trend(
        seconds, [10**8 + int(second * 1000) + wave for second, wave in zip(seconds, noise, strict=True)]
    )
    assert slope == pytest.approx(3.6e6, rel=0.01)
    assert error < slope
    assert all(math.isnan(value) for value in trend([1, 2], [1, 2]))


@pytest.mark.parametrize("margin", [-20.0, -3.0, 0.0, 4.0])
def test_a_calibrated_probability_is_that_of_the_calibrated_margin(margin: float) -> None:
    probability = 1 / (1 + math.exp(-margin))
    assert calibrated(probability, 1.5, -0.5) == pytest.approx(1 / (1 + math.exp(-(1.5 * margin - 0.5))))
