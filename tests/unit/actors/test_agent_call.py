"""The agent step: an agent's answer, and what its failures mean to a workflow."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from actors.steps.agent_call import AgentCalls
from actors.steps.kinds import Done
from actors.workflow.tasks import StepError, StepTask
from tests.unit.actors.agents.waiting import until


class Clerk(Agent):
    @capability("file")
    async def file(self, body: dict[str, Any]) -> str:
        await asyncio.sleep(body.get("seconds", 0.0))
        return f"filed {body['name']}"


async def run(bench: AgentBench, **inputs: Any) -> Done:
    task = StepTask("w", "s", None, 1, "agent", "file", inputs, "w/s")
    return await AgentCalls(bench.system).run(task, "local", lambda node: None)


async def test_an_answer() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        done = await run(bench, name="a")
        assert json.loads(done.content) == "filed a"


async def test_nobody_has_the_capability() -> None:
    async with AgentBench() as bench:
        with pytest.raises(StepError, match="no agent is named 'file' or offers it") as caught:
            await run(bench, name="a")
        assert caught.value.failure == "refused"


async def test_what_was_broken_off_in_its_midst_may_have_been_done() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        begun = asyncio.create_task(run(bench, name="a", seconds=60.0))
        waiting = asyncio.create_task(run(bench, name="b"))
        await until(lambda: bench.system.describe("clerk")["load"] == 2)
        await bench.system.node_leaving("local", time.time() + 0.1)
        # to be lost, not refused: refused means that nothing was begun, and would be tried again
        with pytest.raises(StepError, match="was stopped while it worked on 'file'") as caught:
            await begun
        assert caught.value.failure == "lost"
        assert json.loads((await waiting).content) == "filed b"
