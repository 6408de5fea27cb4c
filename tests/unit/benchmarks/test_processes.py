"""Process trees, PSS and CPU time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import processes
from ironcliw.errors import UnsupportedError
from ironcliw.settings import process_environment

SMAPS = b"""5581a2c2b000-7ffd3e9f1000 ---p 00000000 00:00 0    [rollup]
Rss:                9876 kB
Pss:                1234 kB
Pss_Dirty:           400 kB
Shared_Clean:       2000 kB
"""
STAT = b"42 (ray: name (x)) S 1 42 42 0 -1 4194560 1 0 0 0 150 25 7 3 20 0 1 0 99 1 1"


def test_pss_is_read_in_bytes() -> None:
    assert processes.parse_pss(SMAPS) == 1234 * 1024
    assert processes.parse_pss(b"") == 0


def test_cpu_time_is_read_behind_a_name_with_spaces_and_parentheses() -> None:
    assert processes.parse_ticks(STAT) == 175
    assert processes.parse_ticks(b"") == 0


def test_a_process_that_ends_in_between_takes_nothing_away() -> None:
    before, after = {1: 5.0, 2: 30.0}, {1: 5.5, 3: 0.25}
    assert processes.cpu_used(before, after) == 0.75
    # read as it ended: no ticks any more
    assert processes.cpu_used({1: 5.0}, {1: 0.0}) == 0.0


def test_descendants_follow_the_tree_and_nothing_else() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 5}
    assert processes.descendants([2], parents) == {2, 3, 4}
    assert processes.descendants([], parents) == set()


def test_a_tagged_process_and_its_clean_child_are_found(tmp_path: Path) -> None:
    def process(pid: int, parent: int, environ: bytes, state: str = "S") -> None:
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (x) {state} {parent} 0 0")
        (folder / "environ").write_bytes(environ)

    process(10, 1, b"A=1\0BENCHMARK_RUN=mine\0")
    process(11, 10, b"")
    process(12, 1, b"BENCHMARK_RUN=mine2\0")
    process(13, 1, b"BENCHMARK_RUN=mine\0", state="Z")
    (tmp_path / "meminfo").write_text("")
    assert processes.members("mine", tmp_path) == {10, 11}


def test_no_proc_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="take this figure on Linux"):
        processes.members("x", tmp_path / "absent")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A real process that waits for its input to end, tagged `sleeper-test`."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdout.write('x'); sys.stdout.flush(); input()"],
        env=process_environment(BENCHMARK_RUN="sleeper-test"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None
        process.stdout.read(1)
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")
def test_a_real_process_is_measured_and_seen_to_end(sleeper: subprocess.Popen[bytes]) -> None:
    assert processes.members("sleeper-test") == {sleeper.pid}
    assert processes.pss_bytes([sleeper.pid]) > 1_000_000
    assert processes.cpu_seconds([sleeper.pid])[sleeper.pid] >= 0
    assert 0 <= processes.idle_cpu("sleeper-test", 0.05) < 1
    assert not processes.wait_gone("sleeper-test", 0.0)
    assert processes.kill_members("sleeper-test") == 1
    assert processes.wait_gone("sleeper-test", 10.0)
