"""What a class of agents says of itself, and what it may not say."""

from __future__ import annotations

from typing import Any

import pytest

from actors.agent import Agent, capability
from actors.agents.options import AgentOptions, capabilities_of
from ironcliw.errors import RequestError, SettingsError


class Base(Agent):
    memory_gb = 0.5

    @capability("add", concurrency=4, idempotent=True)
    async def add(self, pair: Any) -> Any:
        return sum(pair)


class Derived(Base):
    place = "private"

    @capability("slow", timeout_seconds=2)
    def slow(self, _: Any) -> None: ...


def test_capabilities_are_inherited() -> None:
    assert set(Base.capabilities) == {"add"}
    assert set(Derived.capabilities) == {"add", "slow"}
    add, slow = Derived.capabilities["add"], Derived.capabilities["slow"]
    assert (add.concurrency, add.idempotent, add.plain, add.lane) == (4, True, False, "add")
    assert (slow.concurrency, slow.idempotent, slow.plain, slow.lane) == (1, False, True, "")


def test_options_come_from_the_class_and_from_the_start() -> None:
    options = AgentOptions.of(Derived, {"isolated": True})
    assert (options.memory_gb, options.place, options.isolated) == (0.5, "private", True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": "red"}, "'colour' is no option of agents; give place, memory_gb"),
        ({"place": "moon"}, "place 'moon' is none of any, local, private, spot"),
        ({"overflow": "x"}, "overflow 'x' is none of refuse, drop_oldest, wait"),
        ({"memory_gb": 0}, "memory_gb is 0; give a finite number above 0"),
        ({"memory_gb": float("nan")}, "memory_gb is nan"),
        ({"mailbox": -1}, "mailbox is -1"),
        ({"memory_limit_gb": 1}, "memory_limit_gb is for an agent with isolated=True"),
    ],
)
def test_bad_options(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        AgentOptions.of(Base, given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"concurrency": 0}, "concurrency is 0; give 1 or more"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0; give more than 0, or None"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds is nan"),
    ],
)
def test_bad_capabilities(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        capability("x", **arguments)
    with pytest.raises(RequestError, match="'a b' cannot name a capability"):
        capability("a b")


def test_two_methods_of_one_capability() -> None:
    with pytest.raises(SettingsError, match="methods a and b both offer the capability 'same'"):

        class Twice(Agent):
            @capability("same")
            async def a(self, _: Any) -> None: ...

            @capability("same")
            async def b(self, _: Any) -> None: ...

    assert capabilities_of(Agent) == {}


async def test_an_agent_that_was_not_started_reaches_nobody() -> None:
    with pytest.raises(RequestError, match=r"Base was not started: .* start it with Agents.start"):
        await Base().ask("add", [1, 2])
