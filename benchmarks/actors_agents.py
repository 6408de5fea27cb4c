"""A thousand agents: how long one is looked up by its capability, and what an idle one weighs."""

from __future__ import annotations

import asyncio
import time

from actors.agent import Agents
from actors.agents.memory import REMEMBER_SECONDS
from actors.agents.options import AgentOptions, capabilities_of
from actors.agents.spec import AgentSpec
from actors.registry import AgentStatus, Entry, Registry
from benchmarks.actors_cluster import control_pid, memory_of, with_agents
from benchmarks.actors_messages import THEME
from benchmarks.actors_work import EchoAgent, IdleAgent
from benchmarks.harness import Goal, Options, Row, Samples, percentile

AGENTS = 1000
_KINDS = 50
_LOOKUP_MS, _AGENT_MB = 1.0, 0.5
_LOOKUPS = 2000
_AT_ONCE = 20


def lookup_rows(options: Options) -> list[Row]:
    """The registry alone, without Ray: agents report, so that listings are made anew."""
    registry = _registry()
    seconds = []
    for number in range(_LOOKUPS):
        name = f"agent-{number % AGENTS}"
        registry.placed(name, "host", "node")  # its listings are not valid any more
        capability = f"kind-{number % _KINDS}"
        begun = time.perf_counter()
        found = registry.look_up(capability)
        seconds.append(time.perf_counter() - begun)
        assert len(found.candidates) == AGENTS // _KINDS
    return [
        Row(
            THEME,
            f"lookup by capability, {AGENTS:,} agents, p99",
            "ms",
            Samples.of([1000 * percentile(seconds, 0.99)]),
            goal=Goal(_LOOKUP_MS, at_most=True),
            note="in the registry, after a change",
        )
    ]


def _registry() -> Registry:
    registry = Registry()
    options = AgentOptions.of(IdleAgent, None)
    offered = capabilities_of(IdleAgent)["idle"]
    for number in range(AGENTS):
        spec = AgentSpec(f"agent-{number}", "benchmarks.actors_work:IdleAgent", {}, options)
        capabilities = {f"kind-{number % _KINDS}": offered}
        registry.add(Entry(spec, capabilities, AgentStatus.STARTING, 0.0))
        registry.placed(spec.name, "host", "node")
    return registry


def agent_rows(options: Options) -> list[Row]:
    """A thousand light agents on a cluster that runs, all of one capability."""
    count = 200 if options.quick else AGENTS
    grown, seconds = with_agents(lambda agents: _fill(agents, count))
    return [
        Row(
            THEME,
            "memory of an idle light agent",
            "MB",
            Samples.of([grown / count / 1e6]),
            goal=Goal(_AGENT_MB, at_most=True),
            note=f"of {count:,}; host and control actor together",
        ),
        Row(
            THEME,
            f"lookup from another process, {count:,} agents of one capability, p50",
            "ms",
            Samples.of([1000 * percentile(seconds, 0.5)]),
            # of so many; fewer prove nothing about it
            goal=Goal(_LOOKUP_MS, at_most=True) if count == AGENTS else None,
            note=f"what it knows is {REMEMBER_SECONDS:g} s old at most; "
            f"asking the registry takes {1000 * max(seconds):.1f} ms",
        ),
    ]


async def _fill(agents: Agents, count: int) -> tuple[int, list[float]]:
    """Bytes by which the processes have grown, and seconds of each lookup."""
    await agents.start(EchoAgent, name="neighbour")
    host = await agents.ask("neighbour", None, capability="pid")
    for number in range(10):  # the code is loaded
        await agents.start(IdleAgent, name=f"first-{number}")
    pids = (int(host), control_pid())
    before = memory_of(*pids)
    for start in range(0, count, _AT_ONCE):
        names = [f"idle-{start + number}" for number in range(_AT_ONCE)]
        await asyncio.gather(*(agents.start(IdleAgent, name=name) for name in names))
    await asyncio.sleep(2.0)  # a round or two of their reports
    grown = memory_of(*pids) - before
    seconds = []
    for _ in range(300):
        begun = time.perf_counter()
        await agents.find("idle")
        seconds.append(time.perf_counter() - begun)
        await asyncio.sleep(0.005)
    return grown, seconds
