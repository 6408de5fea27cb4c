"""Processes beside a head: real ones, with a clock that the test moves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.head.side_processes import Program, SideProcess
from tests.waiting import wait_for

STAYS = "import sys, time; print(sys.stdin.read(), flush=True); time.sleep(60)"


class Bed:
    """Makes side processes and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 100.0
        self.made: list[SideProcess] = []

    def side(self, code: str, running: psutil.Process | None = None) -> SideProcess:
        program = Program("side", (sys.executable, "-c", code), dict(os.environ), b"settings")
        self.made.append(SideProcess(program, self.folder, lambda: self.now, running))
        return self.made[-1]

    def log(self) -> str:
        path = self.folder / "side.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(tmp_path)
    yield bed
    for side in bed.made:
        if side._process is not None:
            side._process.kill()
            side._process.wait(60)


def end(side: SideProcess) -> int:
    assert side.pid is not None
    process = psutil.Process(side.pid)
    process.kill()
    # not waited for: that is the side process's own business
    wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)
    return process.pid


def test_it_is_started_once_and_given_its_input(bed: Bed) -> None:
    side = bed.side(STAYS)
    assert side.pid is None
    side.tend()
    first = side.pid
    wait_for(lambda: "settings" in bed.log())
    side.tend()
    assert side.pid == first


def test_one_that_ended_is_started_again_later_and_later(bed: Bed) -> None:
    side = bed.side(STAYS)
    side.tend()
    first = end(side)
    side.tend()
    assert side.pid not in (None, first)
    end(side)
    side.tend()
    assert side.pid is None
    bed.now += 0.9
    side.tend()
    assert side.pid is None
    bed.now += 0.1
    side.tend()
    assert side.pid is not None


def test_what_it_printed_before_stays_in_the_log(bed: Bed) -> None:
    side = bed.side(STAYS)
    for count in (1, 2):
        side.tend()
        wait_for(lambda count=count: bed.log().count("settings") == count)  # type: ignore[misc]
        end(side)


def test_a_running_one_is_adopted_and_started_again_when_it_ends(bed: Bed) -> None:
    child = subprocess.Popen([sys.executable, "-c", STAYS], stdin=subprocess.PIPE)
    side = bed.side(STAYS, psutil.Process(child.pid))
    side.tend()
    assert side.pid == child.pid
    assert bed.log() == ""
    end(side)
    side.tend()
    assert side.pid not in (None, child.pid)
    child.communicate()
    wait_for(lambda: "settings" in bed.log())


def test_a_program_that_is_not_there_is_tried_again(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    program = Program("side", (str(bed.folder / "absent"),), {})
    side = SideProcess(program, bed.folder, lambda: bed.now)
    side.tend()
    side.tend()
    assert side.pid is None
    assert caplog.text.count("side cannot be started") == 2
    side.tend()
    assert caplog.text.count("side cannot be started") == 2
    bed.now += 1.0
    side.tend()
    assert caplog.text.count("side cannot be started") == 3
