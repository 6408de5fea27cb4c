"""Orchestrator and agents together, on every database, in processes that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import message_records, workflow_records
from actors.agent_records import load_snapshot
from ironcliw.store import Store
from tests import waiting
from tests.contract.actors_process import AGENT, MESSAGES

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(120)


class Process:
    """One that leads, or waits for it."""

    def __init__(self, url: str, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.contract.actors_process", url, str(folder)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def told(self) -> Any:
        """The next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL; harmless to repeat."""
        self._process.kill()
        self._process.wait(60)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def process(url: str, folder: Path) -> Iterator[Process]:
    running = Process(url, folder)
    try:
        yield running
    finally:
        running.kill()


def done(folder: Path) -> list[tuple[str, Any]]:
    path = folder / "trace.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [tuple(json.loads(line)) for line in lines]


def wait_for(folder: Path, *wanted: tuple[str, Any]) -> None:
    deadline = time.monotonic() + 60
    while not set(wanted) <= set(done(folder)):
        assert time.monotonic() < deadline, f"{wanted} were not done: {done(folder)}"
        time.sleep(0.02)


def wait_for_snapshot(store_url: str) -> None:
    """Agents are looked at every second, so a state may come after the work is done."""

    def kept() -> bool:
        with store.read() as connection:
            found = load_snapshot(connection, AGENT)
        return found is not None and int(found[0][1:]) > 0

    with Store(store_url) as store:
        waiting.wait_for(kept)


def test_what_a_killed_process_has_begun_is_taken_up_by_the_next(
    store_url: str, tmp_path: Path
) -> None:
    with process(store_url, tmp_path) as first, process(store_url, tmp_path) as second:
        leads = {"lease": "leads"}
        leader, heir = (first, second) if first.told() == leads else (second, first)
        assert second.told() in (leads, {"lease": "waits"})
        wait_for(tmp_path, ("redo", "two"), ("once", "three"), ("mail", MESSAGES // 2))
        before = done(tmp_path)
        leader.kill()
        (tmp_path / "gate").touch()
        assert heir.told() == leads, "at once: a process that is gone leads no more"
        assert heir.told() == {"status": "uncertain"}
        heir.go_on()
        assert heir.told() == {"status": "completed", "output": "one two by hand"}
        wait_for_snapshot(store_url)
    counts = Counter(done(tmp_path))
    assert counts["note", "one"] == counts["note", "one two by hand"] == 1, "done is done"
    assert (counts["redo", "two"], counts["once", "three"]) == (2, 1)
    assert {number for what, number in counts if what == "mail"} == set(range(MESSAGES))
    assert not {what for what, _ in before} & {"last"}
    with Store(store_url) as store, store.read() as connection:
        assert message_records.count_by_status(connection) == {"done": MESSAGES}
        [row] = workflow_records.list_(connection)
        kinds = Counter(one.kind for one in workflow_records.events_after(connection, row.id))
        assert kinds["step_uncertain"] == kinds["step_waived"] == 1
