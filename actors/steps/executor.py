"""Runs attempts of steps: resolves references, asks the policy, and keeps what is large.

    task -> inputs without references -> place -> executor of its kind -> result, or a reference

Functions are handed references as they are: they read results where they run, which may be larger
than what this process should hold.

The parts are given, so that all of it runs without Ray in a test.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from actors.decision_log import Decided, DecisionLog
from actors.functions import find
from actors.results import Results, has_reference
from actors.routing import LOCAL, Option, RouterPolicy, checked, mask_of
from actors.steps.kinds import Done, KindExecutor, result_of, step_error
from actors.workflow.tasks import READS_RESULTS, StepResult, StepTask
from ironcliw.errors import IroncliwError, NotFoundError
from ironcliw.schemas.workflows import StepKind

logger = logging.getLogger(__name__)

_PRIORITIES = {"critical": 0.0, "high": 1.0, "normal": 2.0, "low": 3.0}
# They answer where the policy has no say: the service, the agent or the job finds its own place.
_ROUTED: frozenset[StepKind] = frozenset({"function"})


AgentIsIdempotent = Callable[[str, Mapping[str, Any]], bool]
"""Target and options of an agent step -> whether what it asks for is declared idempotent."""


class Observer(Protocol):
    """Told of each attempt; `actors.metrics` has the one for Prometheus."""

    def on_attempt(self, kind: str, place: str, outcome: str, seconds: float) -> None:
        """One attempt has ended; `outcome` is `ok`, `cancelled` or the kind of failure."""
        ...


class Machine(Protocol):
    """What the policy's features come from."""

    def options(self) -> Sequence[Option]:
        """Where work may go in this cluster."""
        ...

    def memory(self) -> tuple[float, float]:
        """The head's: gigabytes available, and percent in use."""
        ...


class StepExecutor:
    """An `actors.workflow.tasks.Executor`.

    Args:
        kinds: What carries out the steps of each kind.
        results: Where large results are kept.
        policy: Chooses the place of function steps.
        machine: Facts for it.
        log: Of its decisions.
        agent_is_idempotent: What an agent's capability declares.
        home: Id of the head's node.
        observer: Told of each attempt.
    """

    def __init__(
        self,
        kinds: Mapping[StepKind, KindExecutor],
        results: Results,
        policy: RouterPolicy,
        machine: Machine,
        log: DecisionLog | None = None,
        *,
        agent_is_idempotent: AgentIsIdempotent = lambda target, options: False,
        home: str | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._kinds = dict(kinds)
        self._results = results
        self._policy = policy
        self._machine = machine
        self._log = log
        self._agent_is_idempotent = agent_is_idempotent
        self._home = home
        self._observer = observer
        self._nodes: dict[tuple[str, int], str] = {}
        self._running: Counter[str] = Counter()

    async def run(self, task: StepTask) -> StepResult:
        """Run one attempt to its end; see `actors.workflow.tasks.Executor`.

        Raises:
            StepError: it failed.
        """
        begun = time.monotonic()
        place, decision = LOCAL, None
        outcome = "cancelled"
        try:
            place, decision = self._place(task)
            result = await self._run(task, place, begun)
            outcome = "ok"
            return result
        except IroncliwError as error:
            failed = step_error(error)
            outcome = failed.failure
            if failed is error:
                raise
            raise failed from error
        finally:
            self._end(task, place, decision, outcome, time.monotonic() - begun)

    def is_idempotent(self, kind: StepKind, target: str, options: Mapping[str, Any]) -> bool:
        """What the function or the capability declares; an unknown one declares nothing."""
        if kind == "agent":
            return self._agent_is_idempotent(target, options)
        try:
            return kind == "function" and find(target).idempotent
        except NotFoundError:
            return False

    def node_of(self, task: StepTask) -> str | None:
        """Where that attempt runs now."""
        return self._nodes.get((task.key, task.attempt)) or None

    def started_at(self, key: str, attempt: int, node: str) -> None:
        """An attempt has begun on a node, as that told by itself."""
        if (key, attempt) in self._nodes:
            self._nodes[key, attempt] = node

    async def _run(self, task: StepTask, place: str, begun: float) -> StepResult:
        attempt = (task.key, task.attempt)
        self._running[place] += 1
        self._nodes[attempt] = self._home if place == LOCAL and self._home else ""
        try:
            done = await self._kinds[task.kind].run(
                await self._resolved(task), place, lambda node: self.started_at(*attempt, node)
            )
            try:
                return await self._kept(task, done, begun)
            except IroncliwError as error:
                raise step_error(error).after_work() from error
        finally:
            self._running[place] -= 1
            del self._nodes[attempt]

    async def _resolved(self, task: StepTask) -> StepTask:
        if task.kind in READS_RESULTS or not has_reference(task.inputs):
            return task
        resolved = await asyncio.to_thread(self._results.resolve, task.workflow_id, task.inputs)
        return replace(task, inputs=resolved)

    async def _kept(self, task: StepTask, done: Done, begun: float) -> StepResult:
        address = None
        if self._results.is_large(done.content):
            address = await asyncio.to_thread(
                self._results.keep, task.workflow_id, done.content, result_of(task)
            )
        seconds = time.monotonic() - begun if done.seconds is None else done.seconds
        return StepResult(
            value=json.loads(done.content) if address is None else None,
            reference=address,
            size=None if address is None else len(done.content),
            node=done.node,
            place=done.place,
            seconds=seconds,
            peak_bytes=done.peak_bytes,
        )

    def _place(self, task: StepTask) -> tuple[str, str | None]:
        """Where it runs, and the id of the decision's row."""
        if task.kind not in _ROUTED:
            return LOCAL, None
        options = self._machine.options()
        mask = mask_of(task.place, options)
        features = self._features(task)
        choice = checked(
            self._policy.decide(features, options, mask), options, mask, self._policy.name
        )
        id_ = None
        if self._log is not None:
            decided = Decided(
                task.workflow_id,
                task.step,
                task.attempt,
                self._policy.name,
                features,
                options,
                mask,
                choice,
            )
            id_ = self._log.note(decided)
        return options[choice.index].name, id_

    def _features(self, task: StepTask) -> dict[str, float]:
        free_gb, percent = self._machine.memory()
        left = float("inf") if task.deadline is None else max(0.0, task.deadline - time.time())
        return {
            "memory_gb": task.memory_gb or 0.0,
            "expected_seconds": task.expected_seconds or 0.0,
            "seconds_left": left,
            "priority": _PRIORITIES[task.priority],
            "attempt": float(task.attempt),
            "free_ram_gb": free_gb,
            "ram_percent": percent,
            **{f"running_{place}": float(self._running[place]) for place in ("local", "spot")},
        }

    def _end(
        self, task: StepTask, place: str, decision: str | None, outcome: str, seconds: float
    ) -> None:
        if self._observer is not None:
            self._observer.on_attempt(task.kind, place, outcome, seconds)
        if self._log is not None:
            told: dict[str, Any] = {"outcome": outcome, "seconds": round(seconds, 6)}
            self._log.outcome(decision, told)
