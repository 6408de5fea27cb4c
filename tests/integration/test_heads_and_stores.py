"""Heads whose store is damaged, held by somebody else or shared; and the orderly end of one."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ironcliw.client import Client
from tests.integration.conftest import Head
from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

LIGHT = {
    "IRONCLIW_SERVE__PINNED_MODELS": "[]",
    "IRONCLIW_ACTORS__MODULES": '["tests.integration.workflow_steps"]',
}
COUNTING = """
from actors.agent import Agent, capability

class Counting(Agent):
    def __init__(self):
        self.count = 0

    @capability("count")
    async def add(self, body):
        self.count += 1
        return self.count

    def snapshot(self):
        return self.count

    def restore(self, state):
        self.count = state
"""


@pytest.fixture
def heads(tmp_path: Path) -> Iterator[list[Head]]:
    """Heads that are stopped at the end, whatever became of them."""
    made: list[Head] = []
    yield made
    for head in made:
        assert head.run("down").returncode == 0
        head.remove()


def test_a_damaged_store_stops_the_start_and_stays_as_it_is(
    tmp_path: Path, heads: list[Head]
) -> None:
    head = Head(tmp_path, **LIGHT)
    heads.append(head)
    head.state.mkdir(parents=True)
    file = head.state / "state.db"
    file.write_bytes(b"this was a database once" * 400)
    before = file.read_bytes()
    result = head.run("up")
    assert result.returncode != 0
    assert "state.db cannot be used: file is not a database" in result.stderr
    assert "Traceback" not in result.stderr
    assert file.read_bytes() == before


def test_a_store_that_somebody_else_holds_stops_the_start(
    tmp_path: Path, heads: list[Head]
) -> None:
    head = Head(tmp_path, **LIGHT)
    heads.append(head)
    head.state.mkdir(parents=True)
    holder = sqlite3.connect(head.state / "state.db", isolation_level=None)
    holder.execute("PRAGMA journal_mode=WAL")
    holder.execute("BEGIN IMMEDIATE")
    result = head.run("up")
    holder.close()
    assert result.returncode != 0
    assert "state.db cannot be used: database is locked" in result.stderr
    assert "Traceback" not in result.stderr


def actors_of(head: Head) -> Any:
    return httpx.get(head.url + "/v1/status", timeout=20).json()["actors"]


def test_of_two_heads_on_one_store_one_leads_and_the_other_waits(
    tmp_path: Path, heads: list[Head]
) -> None:
    store = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("one", "two"):
        head = Head(tmp_path / name, IRONCLIW_STORE__URL=store, **LIGHT)
        heads.append(head)
        started = head.run("up")
        assert started.returncode == 0, started.stderr
    first, second = heads
    leads, waits = actors_of(first), actors_of(second)
    assert (leads["state"], waits["state"]) == ("leading", "waiting")
    assert waits["leader"] == leads["leader"]
    degraded = httpx.get(second.url + "/v1/status", timeout=20).json()["degraded"]
    assert any("leads those of this store" in line for line in degraded)
    (tmp_path / "gate").touch()
    steps = {"one": {"function": "tests.note", "with": {"folder": str(tmp_path)}}}
    with Client(base_url=first.url, timeout=60) as client:
        submitted = client.submit_workflow({"name": "shared", "steps": steps})
        assert client.wait_for_workflow(submitted.id, seconds=60).status == "completed"
    assert first.run("down").returncode == 0
    wait_for(lambda: actors_of(second)["state"] == "leading", 8)  # less than a lease's 10 s
    with Client(base_url=second.url, timeout=60) as client:
        assert client.workflow(submitted.id).status == "completed"


def test_an_orderly_end_loses_nothing(tmp_path: Path, heads: list[Head]) -> None:
    (tmp_path / "counting.py").write_text(COUNTING, encoding="utf-8")
    head = Head(tmp_path, **LIGHT)
    heads.append(head)
    assert head.run("up").returncode == 0
    words = ("counting:Counting", "--name", "counter", "--working-dir", str(tmp_path))
    assert head.run("agents", "start", *words).returncode == 0
    for number in (1, 2):
        asked = head.run("agents", "send", "count", "--ask")
        assert asked.stdout == f"{number}\n", asked.stderr
    steps = {
        "once": {"function": "tests.wait_once", "with": {"folder": str(tmp_path)}},
        "next": {"function": "tests.note", "after": ["once"], "with": {"folder": str(tmp_path)}},
    }
    with Client(base_url=head.url, timeout=60) as client:
        submitted = client.submit_workflow({"name": "orderly", "steps": steps})
    trace = tmp_path / "trace.jsonl"
    wait_for(trace.exists, 60)
    gate = threading.Timer(4.0, (tmp_path / "gate").touch)
    gate.start()
    begun = time.monotonic()
    ended = head.run("down")
    assert ended.returncode == 0, ended.stderr
    assert "waiting up to 10 s for what runs" in ended.stderr
    assert 2 < time.monotonic() - begun < 30, "as long as the step took, and not longer"
    gate.join()
    logs = [*head.state.glob("logs/*"), *head.ray_logs()]
    broken = [path for path in logs if "Traceback" in path.read_text(errors="replace")]
    assert not broken
    assert head.run("up").returncode == 0
    with Client(base_url=head.url, timeout=60) as client:
        done = client.wait_for_workflow(submitted.id, seconds=60)
    assert done.status == "completed", "not uncertain: the step could end"
    assert [json.loads(line)["step"] for line in trace.read_text().splitlines()] == ["once", "next"]
    again = head.run("agents", "send", "count", "--ask")
    assert again.stdout == "3\n", again.stderr
