"""Agents on Spot machines that are taken back, with and without notice.

On a head as `ironcliw up` starts it, with a fake cloud whose machines really join and end.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.testing.faults import Preempt

from .conftest import ROOT
from .homes import Home, home_in, wait_for
from .test_agents import Client

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

MACHINE_SECONDS = 200.0
"""For one to be ordered and to join, while others use this machine."""
SAFE_SECONDS = 10.0
"""From the notice to the moment at which all of a process's agents have left it."""
COUNTED = [f"counted-{number}" for number in range(20)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home_in(tmp_path_factory.mktemp("home")) as home:
        yield home


@contextmanager
def agents_of(home: Home) -> Iterator[Client]:
    """A driver that has joined the head."""
    # Ray reads them when it is imported, which the driver begins with
    joining = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home.head.state / "token")}
    joining["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.agents_driver"],
        cwd=ROOT,
        env=home.head.environment | joining | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    client = Client(process)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def client(home: Home) -> Iterator[Client]:
    with agents_of(home) as client:
        yield client


@pytest.fixture
def agents(client: Client) -> Iterator[Client]:
    """No agent is left by the test before."""
    yield client
    for one in client.agents("describe_all"):
        client.agents("stop", one["name"], seconds=0.0)


def start(agents: Client, name: str, trace: Path, **options: object) -> str:
    """Start an agent of the tests; its node."""
    made = agents.begin(
        *("agents", "start", "tests.integration.actors_agents:Helper"),
        name=name,
        options=options,
        trace=str(trace),
    )
    made.result(MACHINE_SECONDS)
    return str(agents.describe(name)["node"])


def moved(agents: Client, name: str, before: str) -> bool:
    found = agents.describe(name)
    return found["status"] == "running" and found["node"] != before


def lines(trace: Path) -> list[str]:
    return trace.read_text().splitlines() if trace.exists() else []


def test_a_notice_moves_agents_with_state_and_mailbox(
    home: Home, agents: Client, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    at_home = start(agents, "guarded", trace, place="private")
    away = start(agents, "light", trace, place="spot")
    assert start(agents, "apart", tmp_path / "other", place="spot", isolated=True) == away
    assert away != at_home
    # more than the head takes
    assert start(agents, "large", tmp_path / "other", place="any", memory_gb=4.5) == away
    [first] = home.live()
    pids = {name: agents.ask(name, capability="pid") for name in ("guarded", "light")}
    assert [agents.ask(one, 1, capability="count") for one in ("light", "apart")] == [1, 1]
    # one is worked on, the others wait in the mailbox; nobody waits for their answers
    for number in range(5):
        agents.agents("send", "light", f"noted-{number}", capability="note")
    home.world.add(Preempt(notice=30, name=first))
    for word in COUNTED:
        agents.agents("send", "apart", word, capability="count", durable=True)
    for name in ("light", "apart", "large"):
        wait_for(
            lambda name=name: moved(agents, name, away),  # type: ignore[misc]
            MACHINE_SECONDS,
            lambda: home.logs(tmp_path),
        )
    # what it had begun it has finished there, the rest came along, in its order
    noted = [f"noted-{number}" for number in range(5)]
    wait_for(lambda: len(lines(trace)) >= 6, 60, lambda: str(lines(trace)))
    found = [line.split() for line in lines(trace)[1:]]
    assert [word for word, _ in found] == noted
    assert found[0][1] == str(pids["light"]) != found[-1][1]
    wait_for(lambda: set(COUNTED) <= set(lines(tmp_path / "other")), 60, lambda: "durable ones")
    assert agents.ask("light", 1, capability="count") == 2
    assert agents.ask("apart", 1, capability="count") >= 2 + len(COUNTED)
    assert {one["name"]: one["restarts"] for one in agents.agents("describe_all")} == {
        "apart": 0,
        "guarded": 0,
        "large": 0,
        "light": 0,
    }
    # the machine's agent heard that it need not wait, and "private" is where it was
    [noticed], safe = home.told(first, "preempted"), home.told(first, "hook_done")
    assert len(safe) == 2, "one a process"
    assert max(safe) - noticed < SAFE_SECONDS
    assert agents.ask("guarded", capability="pid") == pids["guarded"]
    wait_for(lambda: first not in home.live(), 60, lambda: home.logs(tmp_path))


def test_a_machine_that_dies_costs_no_durable_message(
    home: Home, agents: Client, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    away = start(agents, "light", trace, place="spot")
    for word in COUNTED[:10]:
        agents.agents("send", "light", word, capability="count", durable=True)
    wait_for(lambda: len(lines(trace)) >= 10, 60, lambda: str(lines(trace)))
    [machine] = home.live()
    home.world.add(Preempt(notice=0, name=machine))
    for word in COUNTED[10:]:
        agents.agents("send", "light", word, capability="count", durable=True)
    wait_for(lambda: moved(agents, "light", away), MACHINE_SECONDS, lambda: home.logs(tmp_path))
    wait_for(lambda: set(COUNTED) <= set(lines(trace)), 60, lambda: str(lines(trace)))
    # its last state was kept before the machine died, and each message was counted once since
    done = Counter(lines(trace))
    assert all(done[word] == 1 for word in COUNTED[:10])
    assert agents.agents("dead_letters") == []
