"""An executor whose steps do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from actors.workflow.tasks import StepError, StepResult, StepTask
from ironcliw.schemas.workflows import StepKind

Behaviour = Callable[[StepTask], Awaitable[Any]]


class Scripted:
    """Runs each function by its own behaviour; without one it gives its inputs back.

    Attributes:
        tasks: What it was handed, in order.
        running: Attempts at once, and the most so far.
        stopped: Keys of attempts that were cancelled.
        ended: Keys of attempts of an earlier orchestrator that were ended.
        may_end: Set when they have.
        goes_on: Whether they do not.
        forgotten: Keys of attempts that are over.
        nodes: Where an attempt runs, by its key and number.
    """

    def __init__(
        self, behaviours: Mapping[str, Behaviour] | None = None, idempotent: tuple[str, ...] = ()
    ) -> None:
        self._behaviours = dict(behaviours or {})
        self._idempotent = idempotent
        self.tasks: list[StepTask] = []
        self.running = self.most = 0
        self.stopped: list[tuple[str, int]] = []
        self.ended: list[tuple[str, int]] = []
        self.may_end = asyncio.Event()
        self.goes_on = False
        self.forgotten: list[tuple[str, int]] = []
        self.nodes: dict[tuple[str, int], str] = {}

    async def run(self, task: StepTask) -> StepResult:
        self.tasks.append(task)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            behaviour = self._behaviours.get(task.target)
            found = dict(task.inputs) if behaviour is None else await behaviour(task)
        except asyncio.CancelledError:
            self.stopped.append((task.key, task.attempt))
            raise
        finally:
            self.running -= 1
        return found if isinstance(found, StepResult) else StepResult(found)

    async def end(self, task: StepTask) -> None:
        self.ended.append((task.key, task.attempt))
        await self.may_end.wait()
        if self.goes_on:
            raise StepError("unstopped", "it may still be at it")

    def is_idempotent(self, kind: StepKind, target: str, options: Mapping[str, Any]) -> bool:
        return target in self._idempotent

    def forget(self, task: StepTask) -> None:
        self.forgotten.append((task.key, task.attempt))

    def node_of(self, task: StepTask) -> str | None:
        return self.nodes.get((task.key, task.attempt))

    def names(self) -> list[str]:
        """Steps in the order in which they were handed out."""
        return [task.step for task in self.tasks]


async def forever(_task: StepTask) -> None:
    """Ends only when it is cancelled."""
    await asyncio.Event().wait()
