"""Agents on a real Ray: their processes are killed, blocked, hung and filled; messages survive."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
HELPER = "tests.integration.actors_agents:Helper"


class AgentFailure(Exception):
    """What the other side raised: its class's name and its words."""


class Client:
    """Drives `agents_driver`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._waiting: dict[int, Future[Any]] = {}
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(120):
            self.close()
            pytest.fail("Ray did not start")

    def begin(self, kind: str, method: str, *words: Any, **named: Any) -> Future[Any]:
        id_ = len(self._waiting)
        future = self._waiting[id_] = Future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([id_, kind, method, words, named]) + "\n")
        self._process.stdin.flush()
        return future

    def agents(self, method: str, *words: Any, **named: Any) -> Any:
        return self.begin("agents", method, *words, **named).result(120)

    def ask(self, target: str, body: Any = None, **named: Any) -> Any:
        return self.agents("ask", target, body, **named)

    def start(self, name: str, *, trace: Path | None = None, **options: Any) -> None:
        named = {} if trace is None else {"trace": str(trace)}
        self.agents("start", HELPER, name=name, options=options, **named)

    def describe(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.agents("describe", name)
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._take(*line.partition(" ")[::2])

    def _take(self, kind: str, rest: str) -> None:
        if kind.strip() == "READY":
            self._ready.set()
        elif kind == "ANSWER":
            id_, (good, value) = json.loads(rest)
            if good:
                self._waiting[id_].set_result(value)
            else:
                self._waiting[id_].set_exception(AgentFailure(": ".join(value)))

    def close(self) -> None:
        """End the driver, and its Ray with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)


@pytest.fixture(scope="module")
def handover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a machine's agent, as its startup script makes it."""
    folder = tmp_path_factory.mktemp("handover")
    for name in ("hooks", "done"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, handover: Path) -> Iterator[Client]:
    # short: it becomes part of a socket's path
    folder = Path(tempfile.mkdtemp(prefix="icw-agents-", dir="/tmp"))
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'state.db'}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("IRONCLIW_", "RAY_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.agents_driver", str(folder), url],
        cwd=ROOT,
        env=clean
        | {
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "IRONCLIW_HANDOVER_DIR": str(handover),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    client = Client(process)
    try:
        yield client
    finally:
        client.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def agents(client: Client) -> Iterator[Client]:
    """No agent is left by the test before."""
    yield client
    for one in client.agents("describe_all"):
        client.agents("stop", one["name"], seconds=0.0)


def test_light_agents_share_a_process_and_isolated_ones_have_their_own(agents: Client) -> None:
    agents.start("one")
    agents.start("two")
    agents.start("apart", isolated=True)
    pids = [agents.ask(name, capability="pid") for name in ("one", "two", "apart")]
    assert pids[0] == pids[1] != pids[2]
    # across processes, both ways
    there_and_back = {"target": "apart", "body": {"target": "one"}, "capability": "relay"}
    there_and_back["body"] |= {"body": None, "capability": "pid"}  # type: ignore[operator]
    assert agents.ask("two", there_and_back, capability="relay") == pids[0]


def test_errors_cross_processes_as_themselves(agents: Client) -> None:
    agents.start("apart", isolated=True)
    with pytest.raises(AgentFailure, match=r"AgentError: .*'raise' raised LookupError: lost it"):
        agents.ask("raise", "lost it")
    with pytest.raises(AgentFailure, match=r"RequestError: .*has no capability 'fly'"):
        agents.ask("apart", capability="fly")
    with pytest.raises(AgentFailure, match=r"NotFoundError: no agent is named 'fly'"):
        agents.ask("fly")
    with pytest.raises(AgentFailure, match=r"DeadlineExceededError: 'sleep' took longer"):
        agents.ask("sleep", 30, deadline_seconds=0.3)
    with pytest.raises(AgentFailure, match=r"ConflictError: there is an agent 'apart' already"):
        agents.start("apart")
    with pytest.raises(AgentFailure, match=r"SettingsError: .*cannot be loaded"):
        agents.agents("start", "no_such_module:Nobody")


def test_a_killed_process_is_replaced_and_the_state_goes_on(agents: Client) -> None:
    agents.start("apart", isolated=True)
    assert [agents.ask("apart", i, capability="count") for i in range(3)] == [1, 2, 3]
    pid = agents.ask("pid")
    wait_for(lambda: agents.begin("control", "snapshot", "apart").result(30) == "j3")
    os.kill(pid, signal.SIGKILL)
    # idempotent: whoever asks only waits
    assert agents.ask("apart", 4, capability="count") == 4
    assert agents.ask("pid") != pid
    assert agents.describe("apart")["restarts"] == 1


def test_a_killed_host_takes_no_agent_along(agents: Client) -> None:
    for name in ("one", "two", "three"):
        agents.start(name)
    pid = agents.ask("one", capability="pid")
    asked = agents.begin("agents", "ask", "one", 30, capability="sleep")
    wait_for(lambda: agents.describe("one")["load"] == 1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(AgentFailure, match=r"UnavailableError|HostLostError"):
        asked.result(30)
    pids = {agents.ask(name, capability="pid") for name in ("one", "two", "three")}
    assert len(pids) == 1
    assert pid not in pids
    # who was at work is to blame, the others are not
    found = [agents.describe(name) for name in ("one", "two", "three")]
    assert [one["last_restart"]["cause"] for one in found] == ["failed", "lost", "lost"]
    for one in found:
        why = "its process was killed, or crashed in native code"
        assert (one["restarts"], one["last_restart"]["reason"]) == (1, why)
        assert one["pid"] in pids


def test_a_jobs_open_circuit_is_listed(agents: Client) -> None:
    agents.start("raises")
    for _ in range(8):
        with pytest.raises(AgentFailure, match="LookupError: no"):
            agents.ask("raise", "no")
    [row] = wait_for(lambda: agents.agents("breakers"))
    assert (row["capability"], row["state"], row["failures"]) == ("raise", "open", 8)
    assert row["process"].startswith("job-")


def test_an_agent_that_blocks_its_process_is_found_and_ends_with_it(agents: Client) -> None:
    agents.start("blocks")
    agents.start("neighbour")
    with pytest.raises(AgentFailure, match=r"HostLostError|DeadlineExceededError"):
        agents.ask("blocks", 60, capability="block", deadline_seconds=25)
    assert agents.ask("neighbour", capability="pid")
    assert agents.ask("blocks", capability="pid")
    found = [agents.describe(name)["last_restart"] for name in ("blocks", "neighbour")]
    assert [one["cause"] for one in found] == ["failed", "lost"]
    assert found[0]["reason"] == "it blocks the event loop of its process"
    assert found[1]["reason"].startswith("its event loop has stood still for ")


def test_an_agent_whose_thread_hangs_is_started_again(agents: Client) -> None:
    agents.start("hangs", isolated=True)
    pid = agents.ask("pid")
    with pytest.raises(AgentFailure, match="DeadlineExceededError"):
        agents.ask("hangs", 120, capability="hang")
    wait_for(lambda: agents.describe("hangs")["restarts"] == 1)
    assert agents.ask("pid") != pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
def test_an_agent_that_exhausts_its_memory_is_started_again(agents: Client) -> None:
    agents.start("grows", isolated=True, memory_limit_gb=0.2)
    pid = agents.ask("pid")
    with pytest.raises(AgentFailure, match=r"'grow' raised MemoryError|HostLostError"):
        agents.ask("grow", 1000, deadline_seconds=60)
    wait_for(lambda: agents.describe("grows")["restarts"] == 1)
    assert agents.ask("pid") != pid


def test_durable_messages_survive_their_agents_death(agents: Client, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    agents.start("apart", isolated=True, trace=trace)
    for number in range(40):
        agents.agents("send", "apart", number, capability="count", durable=True, key=str(number))
        if number in (10, 25):
            os.kill(agents.ask("apart", capability="pid"), signal.SIGKILL)
    wait_for(lambda: agents.begin("control", "durable_on_the_way").result(30) == 0)
    seen = {int(line) for line in trace.read_text().splitlines()}
    assert seen == set(range(40))
    assert agents.agents("dead_letters") == []


def test_a_message_that_ends_its_agent_each_time_becomes_a_dead_letter(
    agents: Client, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    agents.start("apart", isolated=True, max_attempts=2, trace=trace)
    agents.agents("send", "apart", "poison", capability="exit", durable=True)
    wait_for(lambda: agents.agents("dead_letters", "apart"))
    [letter] = agents.agents("dead_letters", "apart")
    assert letter["attempts"] == 2
    assert trace.read_text().split() == ["poison"] * 2
    # and the agent is well
    assert agents.ask("apart", capability="pid")
    agents.agents("replay", letter["id"])
    wait_for(lambda: len(trace.read_text().split()) == 4)
    wait_for(lambda: agents.agents("dead_letters", "apart"))


def test_the_control_actor_may_die(agents: Client, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    agents.start("apart", isolated=True, trace=trace)
    agents.start("shared")
    pids = [agents.ask(name, capability="pid") for name in ("apart", "shared")]
    control = agents.begin("control", "pid").result(30)
    os.kill(control, signal.SIGKILL)
    # what is sent durably while it is away waits for it
    agents.agents("send", "apart", "later", capability="count", durable=True)
    wait_for(lambda: agents.begin("control", "durable_on_the_way").result(60) == 0)
    assert trace.read_text().split() == ["later"]
    # the agents went on as they were
    assert [agents.ask(name, capability="pid") for name in ("apart", "shared")] == pids
    assert {one["name"]: one["restarts"] for one in agents.agents("describe_all")} == {
        "apart": 0,
        "shared": 0,
    }


def test_agents_leave_a_machine_that_is_taken_back(agents: Client) -> None:
    agents.start("apart", isolated=True)
    assert agents.ask("apart", 1, capability="count") == 1
    pid, node = agents.ask("pid"), agents.describe("apart")["node"]
    asked = agents.begin("agents", "ask", "apart", 2.0, capability="sleep")
    wait_for(lambda: agents.describe("apart")["load"] == 1)
    agents.begin("control", "leave", node, 10.0).result(30)
    # what it was at is finished, and its state is where it is now
    assert asked.result(60) == 2.0
    assert agents.ask("apart", 2, capability="count") == 2
    assert agents.ask("pid") != pid
    assert agents.describe("apart")["restarts"] == 0


def test_the_machines_own_agent_is_answered(agents: Client, handover: Path) -> None:
    agents.start("apart", isolated=True)
    assert agents.ask("apart", 1, capability="count") == 1
    pid = agents.ask("pid")
    # the machine waits for this process
    assert (handover / "hooks" / f"agents-{pid}").exists()
    notice = handover / "notice.json"
    now = time.time()
    notice.write_text(json.dumps({"at": now, "deadline": now + 20, "reason": "preempted"}))
    try:
        wait_for((handover / "done" / f"agents-{pid}").exists)
    finally:
        notice.unlink()
    # and need not do so any more: the agent is elsewhere, with its state
    assert agents.ask("apart", 2, capability="count") == 2
    assert agents.ask("pid") != pid
