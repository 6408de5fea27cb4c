"""Which processes belong to a server, what they hold and what they burn. Linux only.

A server is started with a tag in its environment. Some programs overwrite that memory when they
rename themselves, so the children of tagged processes count as well.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ironcliw.errors import UnsupportedError

PROC = Path("/proc")
TAG = "BENCHMARK_RUN"


def members(tag: str, proc: Path = PROC) -> set[int]:
    """Process ids that carry the tag, and their descendants; never this process.

    Raises:
        UnsupportedError: this system has no /proc.
    """
    if not proc.is_dir():
        raise UnsupportedError(f"{sys.platform} has no {proc}; take this figure on Linux")
    above = parents(proc)
    needle = f"{TAG}={tag}".encode()
    tagged = {pid for pid in above if needle in _read(proc / str(pid) / "environ").split(b"\0")}
    return descendants(tagged, above) - {os.getpid()}


def descendants(roots: Iterable[int], parents: dict[int, int]) -> set[int]:
    """The roots and everything below them, given each process's parent."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def pss_bytes(pids: Iterable[int], proc: Path = PROC) -> int:
    """Proportional set size: private memory plus a fair share of what is shared."""
    return sum(parse_pss(_read(proc / str(pid) / "smaps_rollup")) for pid in pids)


def parse_pss(smaps_rollup: bytes) -> int:
    """Bytes of PSS in a smaps_rollup file; 0 for a process that has ended."""
    found = re.search(rb"^Pss:\s+(\d+) kB$", smaps_rollup, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def cpu_seconds(pids: Iterable[int], proc: Path = PROC) -> dict[int, float]:
    """User and system time that each process has used so far."""
    hertz = os.sysconf("SC_CLK_TCK")
    return {pid: parse_ticks(_read(proc / str(pid) / "stat")) / hertz for pid in pids}


def cpu_used(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Seconds used between two looks; what a process used that ended in between is not known."""
    return sum(max(0.0, seconds - before.get(pid, 0.0)) for pid, seconds in after.items())


def parse_ticks(stat: bytes) -> int:
    """utime + stime of a stat file (fields 14 and 15, proc(5)); 0 for an ended process."""
    # the name, in parentheses, may hold spaces
    fields = stat.rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def idle_cpu(tag: str, seconds: float) -> float:
    """Share of one core that a server's processes burn while nobody asks anything."""
    before, started = cpu_seconds(members(tag)), time.monotonic()
    time.sleep(seconds)
    return cpu_used(before, cpu_seconds(members(tag))) / (time.monotonic() - started)


def wait_gone(tag: str, seconds: float) -> bool:
    """Whether every process of a server ends within the time."""
    return wait_until(lambda: not members(tag), seconds)


def kill_members(tag: str) -> int:
    """Kill what is left of a server; returns how many processes there were."""
    pids = members(tag)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(pids)


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Poll a condition until it holds (True) or the time is over (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def parents(proc: Path = PROC) -> dict[int, int]:
    """The parent of each process that has not ended."""
    found = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            fields = _read(folder / "stat").rpartition(b")")[2].split()
            # a zombie has ended: only its exit status waits to be collected
            if len(fields) > 1 and fields[0] != b"Z":
                found[int(folder.name)] = int(fields[1])
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
