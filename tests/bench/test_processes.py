"""What a process tree costs, counted from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes import TICK, Process, Program, members, parsed, running, usage
from features.errors import ContenderFailure

BURN = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
# Burns CPU itself, in a child that it waits for, and in one of another session that lives on.
TREE = (
    "import subprocess, sys, time\n"
    f"subprocess.run([sys.executable, '-c', {BURN.format(0.3)!r}])\n"
    f"subprocess.Popen([sys.executable, '-c', {BURN.format(0.3) + 'time.sleep(60)'!r}], start_new_session=True)\n"
    + BURN.format(0.3)
    + "time.sleep(60)"
)


def process(pid: int, parent: int, session: int) -> Process:
    return Process(pid, parent, session, 1.0, 1)


def test_a_line_of_proc_is_read_whatever_the_name_is() -> None:
    fields = ["S", "7", "8", "9", *["0"] * 7, "100", "50", "20", "10", *["0"] * 6, "5", *["0"] * 10]
    found = parsed(f"12 (a (b) c) {' '.join(fields)}")
    assert found == Process(12, 7, 9, 180 / TICK, 5 * os.sysconf("SC_PAGE_SIZE"))
    assert parsed(Path("/proc/self/stat").read_text()).pid == os.getpid()


def test_members_are_descendants_and_those_of_their_sessions() -> None:
    others = [process(1, 0, 1), process(2, 1, 2)]
    tree = [process(10, 2, 10), process(11, 10, 10), process(12, 11, 12), process(13, 1, 12), process(14, 1, 10)]
    assert {p.pid for p in members(10, [*others, *tree])} == {10, 11, 12, 13, 14}
    assert members(99, others) == []


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    found = Program("tree", [sys.executable, "-c", TREE], os.environ, tmp_path)
    yield found
    found.kill()


def test_cpu_of_all_of_the_tree_is_counted_and_all_of_it_is_killed(program: Program) -> None:
    give_up = time.monotonic() + 60
    while program.usage().cpu < 0.9 and time.monotonic() < give_up:
        time.sleep(0.05)
    found = program.usage()
    assert found.cpu >= 0.9
    assert found.memory > 1_000_000
    assert program.peak >= found.memory
    tree = {p.pid for p in members(program.pid, running())}
    assert len(tree) == 2, "the child that was waited for is over, its CPU stays"
    program.kill()
    assert not {p.pid for p in running() if p.memory} & tree
    assert usage(program.pid).memory == 0


def test_a_program_that_ends_by_itself_says_why(tmp_path: Path) -> None:
    program = Program("short", [sys.executable, "-c", "raise SystemExit('no model')"], os.environ, tmp_path)
    program.wait(60)
    with pytest.raises(ContenderFailure, match=r"(?s)short ended with exit code 1.*no model"):
        program.check()
    program.kill()


def test_this_process_is_no_part_of_a_child_in_its_own_session() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        assert os.getpid() not in {p.pid for p in members(child.pid, running())}
    finally:
        child.kill()
        child.wait()
