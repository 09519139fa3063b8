from __future__ import annotations

import pytest

from training.progress import Stages


def test_without_a_terminal_each_finished_stage_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Stages() as stages:
        with stages.stage("first", 3) as advance:
            for _ in range(3):
                advance()
        with stages.stage("second"):
            pass
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[0] for line in err.splitlines()] == ["first", "second"]


def test_on_a_terminal_there_are_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Stages() as stages, stages.stage("fitting", 2) as advance:
        advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert "fitting" in err
    assert "━" in err


def test_a_stage_that_fails_is_not_reported_as_finished(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Stages() as stages, stages.stage("doomed"):
        raise RuntimeError
    assert "doomed" not in capsys.readouterr().err
