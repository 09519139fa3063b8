"""Contenders: how they are started, and what becomes of one that cannot be."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench import speed
from bench.contenders import ALL, OURS, Course
from bench.peers import environments
from bench.peers.scoring import Place
from bench.speed import QUICK, Bench
from bench.throughput import wait
from features.errors import ContenderFailure
from flows.local_kafka import LocalKafka

BY_NAME = {contender.name: contender for contender in ALL}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    monkeypatch.setattr(speed, "model", lambda _traffic, _given: tmp_path)
    return Bench(QUICK, None, Path("log"), Console(file=StringIO()))


def test_a_peer_that_cannot_run_is_left_out_by_name(bench: Bench) -> None:
    with bench._excused(BY_NAME["quix"]):
        raise ContenderFailure("no network")
    assert bench.left_out["quix"] == "no network"


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_flow_itself_is_never_left_out(bench: Bench, name: str) -> None:
    with pytest.raises(ContenderFailure), bench._excused(BY_NAME[name]):
        raise ContenderFailure("it died")


def test_what_the_quick_run_does_not_have_is_said(bench: Bench) -> None:
    assert set(bench.left_out) == set(BY_NAME) - set(QUICK.contenders)


def test_a_peer_whose_environment_cannot_be_made_says_what_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "uv"
    tool.write_text("#!/bin/sh\necho no such index >&2\nexit 3\n")
    tool.chmod(0o700)
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "peers")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ContenderFailure, match=r"(?s)quix: .*exit code 3.*no such index"):
        environments.python_of("quix")
    assert not (tmp_path / "peers" / "quix" / "made-from").exists()


def test_a_place_goes_through_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = Place("localhost:9092", "in", "out", tmp_path / "model", tmp_path, "group")
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    assert Place.from_environment() == place


@pytest.fixture
def course(kafka: LocalKafka, tmp_path: Path) -> Course:
    return Course(kafka.bootstrap_servers, tmp_path / "no-model", tmp_path)


def test_a_contender_that_dies_is_reported_with_what_it_said(course: Course) -> None:
    course.create("contenders-that-die")
    with (
        course.start(BY_NAME["loop"], "contenders-that-die") as run,
        pytest.raises(ContenderFailure, match=r"(?s)loop ended with exit code 1.*no model bundle"),
    ):
        wait(run, 1)
