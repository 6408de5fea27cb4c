"""A machine that reaches `cloud.max_run_hours` while agents and steps are on it.

The controller orders another one ahead of time and drains the first; nobody writes a notice on the
machine itself. On a head as `ironcliw up` starts it, with a fake cloud whose machines really join.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcliw.client import Client as HttpClient

from .homes import Home, home_in, wait_for
from .test_agents import Client
from .test_agents_across_nodes import MACHINE_SECONDS, agents_of, moved, start

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

LIFE_SECONDS = 160


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    hours = str(LIFE_SECONDS / 3600)
    with home_in(tmp_path_factory.mktemp("home"), IRONCLIW_CLOUD__MAX_RUN_HOURS=hours) as home:
        yield home


@pytest.fixture
def agents(home: Home) -> Iterator[Client]:
    with agents_of(home) as agents:
        yield agents


def test_what_is_on_a_machine_has_left_before_its_planned_end(
    home: Home, agents: Client, tmp_path: Path
) -> None:
    away = start(agents, "away", tmp_path / "trace", place="spot")
    assert agents.ask("away", 1, capability="count") == 1
    [first] = home.live()
    step = {"function": "tests.wait", "with": {"folder": str(tmp_path)}, "place": "spot"}

    def attempts() -> int:
        path = tmp_path / "trace.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    with HttpClient(base_url=home.head.url, timeout=60) as client:
        run = client.submit_workflow({"name": "moves", "steps": {"work": step}})
        wait_for(lambda: attempts() == 1, 60, lambda: home.logs(tmp_path))
        wait_for(
            lambda: moved(agents, "away", away),
            LIFE_SECONDS + MACHINE_SECONDS,
            lambda: home.logs(tmp_path),
        )
        wait_for(lambda: attempts() == 2, 60, lambda: home.logs(tmp_path))
        # it is empty and goes by itself: one that the cloud ends has no time for a word
        wait_for(lambda: home.told(first, "power_off"), 60, lambda: home.logs(tmp_path))
        (tmp_path / "gate").touch()
        done = client.wait_for_workflow(run.id, seconds=60)
        failed = [
            e.data["error"]["kind"] for e in client.workflow_events(run.id) if "error" in e.data
        ]
    assert (done.status, failed) == ("completed", ["moved"])
    assert agents.ask("away", 1, capability="count") == 2
    assert agents.describe("away")["restarts"] == 0
    assert first not in home.live()
