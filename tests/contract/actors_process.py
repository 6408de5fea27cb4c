"""A process with orchestrator and agents on a store, as the control actor has them, without Ray.

Run as `python -m tests.contract.actors_process URL FOLDER`: it waits for the lease, goes on with
what is there, sees that there are an agent, a workflow and messages, and prints where the workflow
stands whenever nothing more comes of itself. A line on its standard input skips the uncertain step.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from actors.agents.records import JournalStore
from actors.journal import Journal
from actors.lease import wait_for_lease
from actors.orchestrator import Orchestrator
from actors.results import Results
from actors.routing import Option, PlacementPolicy
from actors.steps.agent_call import AgentCalls
from actors.steps.agent_choice import declares_idempotent
from actors.steps.executor import StepExecutor
from ironcliw.store import Store

MESSAGES = 20
AGENT = "worker"
WORKFLOW = {
    "name": "chain",
    "steps": {
        "first": {"agent": "work.note", "with": {"text": "one"}},
        "redo": {"agent": "work.redo", "after": ["first"], "with": {"text": "two"}},
        "once": {"agent": "work.once", "after": ["first"], "with": {"text": "three"}},
        "last": {
            "agent": {"name": AGENT, "method": "work.note"},
            "with": {"text": "${steps.first} ${steps.redo} ${steps.once}"},
        },
    },
}


class Worker(Agent):
    """Leaves a line for whatever it does; some of it waits for the test."""

    snapshot_seconds = 0.05

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.mail = 0

    def snapshot(self) -> int:
        return self.mail

    def restore(self, state: Any) -> None:
        self.mail = state

    @capability("work.note", idempotent=True)
    async def note(self, body: Any) -> str:
        return self._leave("note", body["text"])

    @capability("work.redo", idempotent=True)
    async def redo(self, body: Any) -> str:
        return await self._wait(self._leave("redo", body["text"]))

    @capability("work.once")
    async def once(self, body: Any) -> str:
        return await self._wait(self._leave("once", body["text"]))

    @capability("work.mail", idempotent=True)
    async def take(self, body: Any) -> None:
        self._leave("mail", body)
        self.mail += 1
        if body >= MESSAGES // 2:
            await self._wait("")

    def _leave(self, what: str, text: Any) -> str:
        with (self.folder / "trace.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([what, text]) + "\n")
        return str(text)

    async def _wait(self, text: str) -> str:
        while not (self.folder / "gate").exists():  # noqa: ASYNC110  (another process makes it)
            await asyncio.sleep(0.01)
        return text


class Facts:
    """A head with room, and no cloud."""

    def options(self) -> Sequence[Option]:
        return (Option("local"),)

    def memory(self) -> tuple[float, float]:
        return 64.0, 10.0


def tell(**facts: Any) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def main(url: str, folder: Path) -> None:
    """Lead, as long as the process lives."""
    store = Store(url)
    store.migrate()
    lease = await wait_for_lease(store, "actors", f"test {folder}", lambda: tell(lease="waits"))
    tell(lease="leads")
    journal = Journal(store, lease=lease)
    bench = AgentBench(store=JournalStore(journal))
    bench.hosts.remember(Worker)
    async with bench:
        if AGENT not in bench.system.registry:
            await bench.start(Worker, name=AGENT, folder=str(folder))
        for number in range(MESSAGES):
            await bench.send("work.mail", number, durable=True, key=f"m{number}")
        executor = StepExecutor(
            {"agent": AgentCalls(bench.system)},
            Results(str(folder / "results"), 1000, 10_000),
            PlacementPolicy(),
            Facts(),
            agent_is_idempotent=partial(declares_idempotent, bench.system.registry),
        )
        orchestrator = Orchestrator(journal, executor)
        await orchestrator.start()
        view = await orchestrator.submit(WORKFLOW, key="chain")
        tell(status=(await orchestrator.wait(view.id)).status)
        await asyncio.to_thread(sys.stdin.readline)
        await orchestrator.skip(view.id, "once", value="by hand")
        ended = await orchestrator.wait(view.id)
        while bench.system.durable_on_the_way:  # noqa: ASYNC110  (the end has no event)
            await asyncio.sleep(0.01)
        tell(status=ended.status, output=ended.output)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
