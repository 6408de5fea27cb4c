"""What a process remembers of the registry: how old it is, and how often it is asked for."""

from __future__ import annotations

import asyncio

import pytest

from actors.agents.directory import DurableSend, Listing
from actors.agents.memory import REMEMBER_SECONDS, RENEW_SECONDS, Memory
from actors.selection import Candidate
from ironcliw.errors import NotFoundError, UnavailableError


class Registry:
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float, float]] = []
        self.now = 100.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def look_up(self, target: str, wait_seconds: float, *, unknown_seconds: float) -> Listing:
        self.asked.append((target, wait_seconds, unknown_seconds))
        number = len(self.asked)
        await self.gate.wait()
        if self.error is not None and not (wait_seconds or unknown_seconds):
            raise self.error
        return Listing(True, (Candidate(target, f"host-{number}"),))

    async def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        self.asked.append((topic, 0.0, 0.0))
        await self.gate.wait()
        return ()

    async def subscribe(self, topic: str, agent: str, *, on: bool) -> None: ...

    async def send_durable(self, message: DurableSend) -> str:
        return message.id


@pytest.fixture
async def registry() -> Registry:
    return Registry()


@pytest.fixture
async def memory(registry: Registry) -> Memory:
    return Memory(registry, clock=lambda: registry.now)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def host(listing: Listing) -> str:
    return listing.candidates[0].host


async def test_many_ask_once(registry: Registry, memory: Memory) -> None:
    registry.gate.clear()
    asked = [asyncio.create_task(memory.look_up("a", 5.0)) for _ in range(100)]
    await turns()
    asked[0].cancel()  # who gives up takes nothing from the others
    registry.gate.set()
    found = await asyncio.gather(*asked[1:])
    assert registry.asked == [("a", 0.0, 0.0)]
    assert {host(one) for one in found} == {"host-1"}


async def test_an_answer_in_use_is_renewed_before_it_is_too_old(
    registry: Registry, memory: Memory
) -> None:
    assert host(await memory.look_up("a")) == "host-1"
    registry.now += RENEW_SECONDS - 0.01
    assert host(await memory.look_up("a")) == "host-1"
    registry.gate.clear()
    registry.now += 0.02
    assert host(await memory.look_up("a")) == "host-1"  # nobody waits for the new one
    assert host(await memory.look_up("a")) == "host-1"
    await turns()
    assert len(registry.asked) == 2
    registry.gate.set()
    await turns()
    assert host(await memory.look_up("a")) == "host-2"
    assert len(registry.asked) == 2


async def test_an_answer_is_never_used_when_it_is_too_old(
    registry: Registry, memory: Memory
) -> None:
    await memory.look_up("a")
    registry.now += REMEMBER_SECONDS
    registry.gate.clear()
    asked = [asyncio.create_task(memory.look_up("a")) for _ in range(3)]
    await turns()
    assert not any(one.done() for one in asked)
    registry.gate.set()
    assert {host(one) for one in await asyncio.gather(*asked)} == {"host-2"}
    assert len(registry.asked) == 2


async def test_what_proved_wrong_does_not_come_back(registry: Registry, memory: Memory) -> None:
    registry.gate.clear()
    early = asyncio.create_task(memory.look_up("a"))
    await turns()
    memory.forget("a")  # the agent moved meanwhile
    registry.gate.set()
    assert host(await early) == "host-1"
    assert host(await memory.look_up("a")) == "host-2"


async def test_who_waits_does_so_alone(registry: Registry, memory: Memory) -> None:
    registry.error = NotFoundError("no agent is called 'a'")
    with pytest.raises(NotFoundError, match="no agent is called 'a'"):
        await memory.look_up("a", 5.0)
    assert registry.asked == [("a", 0.0, 0.0)]
    assert host(await memory.look_up("a", 5.0, unknown_seconds=3.0)) == "host-3"
    assert registry.asked[1:] == [("a", 0.0, 0.0), ("a", 5.0, 3.0)]
    assert host(await memory.look_up("a")) == "host-3"  # and all know it then


async def test_one_that_comes_back_is_waited_for(registry: Registry, memory: Memory) -> None:
    registry.error = UnavailableError("agent 'a' is starting")
    with pytest.raises(UnavailableError, match="agent 'a' is starting"):
        await memory.look_up("a", unknown_seconds=3.0)
    assert host(await memory.look_up("a", 5.0)) == "host-3"


async def test_one_that_has_gone_is_not_remembered(registry: Registry, memory: Memory) -> None:
    await memory.look_up("a")
    registry.error = NotFoundError("no agent is called 'a'")
    registry.now += RENEW_SECONDS
    await memory.look_up("a")
    await turns()
    with pytest.raises(NotFoundError, match="no agent is called 'a'"):
        await memory.look_up("a")


async def test_each_is_told_by_an_error_of_its_own(registry: Registry, memory: Memory) -> None:
    registry.error = NotFoundError("no agent is called 'a'")
    registry.gate.clear()
    asked = [asyncio.create_task(memory.look_up("a")) for _ in range(3)]
    await turns()
    registry.gate.set()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    assert {str(error) for error in errors} == {"no agent is called 'a'"}


async def test_topics_are_remembered_too(registry: Registry, memory: Memory) -> None:
    assert await memory.subscribers("t") == await memory.subscribers("t") == ()
    assert len(registry.asked) == 1
    memory.forget_topic("t")
    await memory.subscribers("t")
    assert len(registry.asked) == 2
