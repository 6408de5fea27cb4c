"""What an agent's restarts are, and why the last one was: for whoever looks after it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayActorError, RayError

from actors.agents.bench import AgentBench
from actors.agents.hosts import LocalHandle, LocalHosts
from actors.agents.last_restart import LastRestart
from actors.agents.link import HostLostError
from actors.agents.ray_calls import answer_of, how_it_ended
from actors.agents.records import AgentStore
from actors.agents.reports import HostReport
from tests.unit.actors.agents.counter import Counter
from tests.waiting import until


def told(bench: AgentBench, name: str = "a") -> tuple[int, str | None, str]:
    """Restarts, and cause and reason of the last."""
    found = bench.system.describe(name)
    last = found["last_restart"] or {"cause": None, "reason": ""}
    return found["restarts"], last["cause"], last["reason"]


def runs(bench: AgentBench, cause: str, name: str = "a") -> Any:
    """Whether it was started again for that, and runs."""
    return lambda: (
        bench.system.describe(name)["status"] == "running" and told(bench, name)[1] == cause
    )


async def handle_of(bench: AgentBench) -> LocalHandle:
    [handle] = await bench.hosts.find()
    assert isinstance(handle, LocalHandle)
    return handle


async def test_a_process_that_ends_counts_for_all_its_agents(bench: AgentBench) -> None:
    for name in ("a", "b"):
        await bench.start(Counter, name=name)
    assert told(bench) == (0, None, "")
    await (await handle_of(bench)).kill()
    for name in ("a", "b"):
        await until(runs(bench, "lost", name))
        restarts, _, reason = told(bench, name)
        assert (restarts, reason.endswith("is gone")) == (1, True)


@pytest.mark.parametrize("how", ["", "its process was killed, or crashed in native code"])
async def test_how_it_ended_is_told_where_it_is_known(bench: AgentBench, how: str) -> None:
    for name in ("a", "b"):
        await bench.start(Counter, name=name)
    handle = await handle_of(bench)

    async def lost() -> HostReport:
        error = HostLostError("the agent is lost, whatever that means")
        error.how = how
        raise error

    handle.report = lost  # type: ignore[method-assign]
    await until(runs(bench, "lost"))
    assert told(bench) == (1, "lost", how or "the agent is lost, whatever that means")


async def test_one_that_fails_is_told_from_its_neighbours(bench: AgentBench) -> None:
    for name in ("a", "b"):
        await bench.start(Counter, name=name)
    await bench.ask("a", capability="sicken")
    await until(runs(bench, "failed"))
    assert told(bench) == (1, "failed", "it says that it is not healthy")
    assert told(bench, "b") == (0, None, "")


async def test_a_process_that_blocks_is_told_of(bench: AgentBench) -> None:
    for name in ("a", "b"):
        await bench.start(Counter, name=name)
    handle, report = await handle_of(bench), (await handle_of(bench)).report

    async def blocked() -> HostReport:
        found = await report()
        found.blocked_seconds, found.blocked_by, found.agents = 7.0, "a", []
        return found

    handle.report = blocked  # type: ignore[method-assign]
    await until(runs(bench, "failed"))
    assert told(bench) == (1, "failed", "it blocks the event loop of its process")
    await until(runs(bench, "lost", "b"))
    assert told(bench, "b") == (1, "lost", "its event loop has stood still for 7.0 s")


async def test_what_nothing_is_wrong_behind_does_not_count(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    await bench.system.restart_agent("a")
    await until(runs(bench, "asked"))
    assert told(bench) == (0, "asked", "somebody asked for it")
    await bench.system.host_leaving(bench.system.describe("a")["host"], 1.0)
    await until(runs(bench, "moved"))
    assert told(bench)[0] == 0


async def test_the_next_head_knows_it_too(store: AgentStore) -> None:
    hosts = LocalHosts()
    first = AgentBench(store=store, hosts=hosts)
    await first.system.start()
    for name in ("a", "b"):
        await first.start(Counter, name=name, options={"isolated": True})
    await first.hosts.kill(first.system.describe("a")["host"])
    await until(runs(first, "failed"))
    before = told(first)

    async def is_kept() -> bool:
        [row] = [row for row in await store.agents() if row.name == "a"]
        return row.restarts == 1

    await until(is_kept)
    await first.close()
    await hosts.kill(first.system.describe("b")["host"])
    async with AgentBench(store=store, hosts=hosts) as second:
        assert told(second) == before
        await until(runs(second, "resumed", "b"))
        assert told(second, "b") == (0, "resumed", "the head was started again")


async def test_where_it_runs_is_known_while_it_does(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    assert bench.system.describe("a")["pid"] == os.getpid()
    entry = bench.system.registry.get("a")
    bench.system.registry.mark("a", entry.status, "as a test has it")
    assert bench.system.describe("a")["pid"] is None


@pytest.mark.parametrize("found", [None, 5, {}, {"cause": "later", "reason": "x", "at": 1.0}])
def test_what_another_release_noted_is_passed_over(found: object) -> None:
    assert LastRestart.from_json(found) is None


def died(text: str) -> ActorDiedError:
    """As Ray raises it; the cause is a part of its text alone."""
    error = ActorDiedError()
    error.error_msg = f"{ActorDiedError.BASE_ERROR_MSG}\n\tclass_name: HostActor\n{text}"
    return error


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (OutOfMemoryError("Task was killed"), "ended because the machine ran out of memory"),
        (NodeDiedError("it left"), "its machine is gone"),
        (died("The actor died because its node has died. Node Id: 4"), "its machine is gone"),
        (
            died("The actor is dead because it was killed by `ray.kill`."),
            "its process was ended by its supervisor",
        ),
        (
            died("The actor is dead because its worker process has died. Worker exit type: X"),
            "its process was killed, or crashed in native code",
        ),
        (died("for no reason"), "its process is gone: The actor died unexpectedly before fini"),
    ],
)
async def test_rays_words_become_ours(error: RayError, how: str) -> None:
    async def call() -> None:
        raise error

    assert how in how_it_ended(error)
    with pytest.raises(HostLostError, match="it is started again, and `ironcliw") as caught:
        await answer_of(call())
    assert how in caught.value.message
    assert caught.value.how == how_it_ended(error)


def test_an_unknown_error_is_told_as_it_is() -> None:
    assert how_it_ended(RayActorError(error_msg="odd")) == "its process is gone: odd"
