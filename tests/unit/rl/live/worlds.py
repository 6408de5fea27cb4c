"""A real store, journal and orchestrator whose steps are routed by the learned router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.decision_log import DecisionLog
from actors.journal import Journal
from actors.orchestrator import Orchestrator
from actors.results import Results
from actors.router import Router
from actors.routing import Option
from actors.situation import HomeFacts, MachineFacts, MoneyFacts
from actors.steps.executor import StepExecutor
from actors.steps.kinds import Done
from actors.workflow.tasks import StepError, StepTask
from ironcliw.store import Store
from rl.policy import NumpyPolicy
from tests.unit.rl.live.situations import MACHINE, MONEY, NOW


class Facts:
    """A head and its cloud, as a test wants them."""

    age = 0.0
    has_cloud = True
    most_machines = 2
    new_machine = MachineFacts("", "booting", 0.0, 30.0, 30.0, 4.0)

    def __init__(self) -> None:
        self.available = 10.0
        self.found: list[MachineFacts] = [replace(MACHINE, idle_since=None, since=NOW)]

    def options(self) -> Sequence[Option]:
        return (Option("local"), Option("spot"))

    def memory(self) -> tuple[float, float]:
        return self.available, 40.0

    def home(self) -> HomeFacts:
        return HomeFacts(16.0, self.available, 8.0)

    def machines(self) -> Sequence[MachineFacts]:
        return self.found

    def money(self) -> MoneyFacts | None:
        return MONEY


class Work:
    """Function steps that do nothing, or fail as a test says, and tell what they took."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str, str]] = []
        self.error: StepError | None = None
        self.hold: asyncio.Event | None = None

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        self.places.append((task.step, place, task.node))
        started("n1" if place == "spot" else "head")
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        seconds = 20.0 if place == "spot" else 10.0
        measured = {"seconds": seconds, "peak_bytes": 500_000_000, "cpu_seconds": 7.5}
        return Done.of({}, task, node="n1", place=place, **measured)


@dataclass
class World:
    """All of it."""

    store: Store
    journal: Journal
    policy: NumpyPolicy
    facts: Facts
    work: Work
    log: DecisionLog
    orchestrator: Orchestrator

    async def complete(self, count: int = 1, **step: Any) -> list[str]:
        """Run workflows of one step; their ids."""
        found = []
        for _ in range(count):
            definition = {"name": "flow", "steps": {"s": {"function": "f", **step}}}
            sent = await self.orchestrator.submit(definition, priority=step.pop("priority", None))
            await self.orchestrator.wait(sent.id, 20)
            found.append(sent.id)
        await self.log.flush()
        return found


@asynccontextmanager
async def world(
    folder: Path, policy: NumpyPolicy | None = None, *, is_logged: bool = True
) -> AsyncIterator[World]:
    """Start one; closed at the end."""
    store = Store(f"sqlite:///{folder / 'state.db'}")
    store.migrate()
    journal = Journal(store)
    log = DecisionLog(journal, 30.0, enabled=is_logged)
    facts, work = Facts(), Work()
    chosen = policy or NumpyPolicy(folder)
    router = Router(chosen, facts, facts, log)
    results = Results(str(folder / "results"), 1000, 1000)
    executor = StepExecutor({"function": work}, results, router, facts, log, home="head")
    orchestrator = Orchestrator(journal, executor, gate=executor, committed=router.note_events)
    router.waiting = lambda: orchestrator.queued
    await orchestrator.start()
    try:
        yield World(store, journal, chosen, facts, work, log, orchestrator)
    finally:
        await orchestrator.close()
        await journal.close()
        store.close()
