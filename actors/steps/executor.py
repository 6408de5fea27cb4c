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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from actors.decision_log import DecisionLog
from actors.functions import find
from actors.results import Results, has_reference
from actors.router import Routed, Router
from actors.routing import LOCAL, RouterPolicy
from actors.situation import ROUTED, WAIT, Ready, Waiting
from actors.steps.kinds import Done, KindExecutor, Lasting, result_of, step_error
from actors.surroundings import Machine
from actors.workflow.tasks import READS_RESULTS, StepError, StepResult, StepTask
from ironcliw.errors import IroncliwError, NotFoundError
from ironcliw.schemas.workflows import StepKind

logger = logging.getLogger(__name__)

# They answer where the policy has no say: the service, the agent or the job finds its own place.

_MOVED = frozenset({"moved", "left"})
"""With these messages an attempt is cancelled because its node goes away."""

AgentIsIdempotent = Callable[[str, Mapping[str, Any]], bool]
"""Target and options of an agent step -> whether what it asks for is declared idempotent."""


class Observer(Protocol):
    """Told of each attempt; `actors.metrics` has the one for Prometheus."""

    def on_attempt(self, kind: str, place: str, outcome: str, seconds: float) -> None:
        """One attempt has ended; `outcome` is `ok`, `cancelled` or the kind of failure."""
        ...


class StepExecutor:
    """An `actors.workflow.tasks.Executor`.

    Args:
        kinds: What carries out the steps of each kind.
        results: Where large results are kept.
        policy: Chooses the place of function steps; or the router that asks it.
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
        policy: RouterPolicy | Router,
        machine: Machine,
        log: DecisionLog | None = None,
        *,
        agent_is_idempotent: AgentIsIdempotent = lambda target, options: False,
        home: str | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._kinds = dict(kinds)
        self._results = results
        self.router = policy if isinstance(policy, Router) else Router(policy, machine, log=log)
        self._log = log
        self._agent_is_idempotent = agent_is_idempotent
        self._home = home
        self._observer = observer
        self._nodes: dict[tuple[str, int], str] = {}
        self._routed: dict[tuple[str, int], Routed] = {}

    async def run(self, task: StepTask) -> StepResult:
        """Run one attempt to its end; see `actors.workflow.tasks.Executor`.

        Raises:
            StepError: it failed.
        """
        begun = time.monotonic()
        routed = Routed(LOCAL)
        outcome, facts = "cancelled", dict[str, Any]()
        try:
            routed = self._place(task)
            placed = replace(task, node=routed.node) if routed.node else task
            result = await self._run(placed, routed.place, begun)
            outcome, facts = "ok", _measured(result)
            return result
        except asyncio.CancelledError as error:
            if error.args and error.args[0] in _MOVED:
                outcome = "moved"
            raise
        except IroncliwError as error:
            failed = step_error(error)
            outcome, facts = failed.failure, _exit(failed)
            if failed is error:
                raise
            raise failed from error
        finally:
            self._end(task, routed, outcome, time.monotonic() - begun, facts)

    async def end(self, task: StepTask) -> None:
        """See `actors.workflow.tasks.Executor`; what ends with its orchestrator has ended."""
        kind = self._kinds[task.kind]
        if isinstance(kind, Lasting):
            await kind.end(task)

    @contextmanager
    def round(self, asked: Sequence[Waiting], held: Sequence[Waiting]) -> Iterator[None]:
        """See `actors.orchestration.asking.Gate`."""
        with self.router.round(_routed(asked), _routed(held)):
            yield

    def in_order(self, steps: Sequence[Waiting]) -> Sequence[int]:
        """See `actors.orchestration.asking.Gate`: what is not routed keeps its turn."""
        places = [index for index, one in enumerate(steps) if one.task.kind in ROUTED]
        found = list(range(len(steps)))
        for place, which in zip(places, self.router.in_order(_routed(steps)), strict=True):
            found[place] = places[which]
        return found

    def admit(self, task: StepTask, ready: Ready) -> float | None:
        """Decide on a step that is ready; Unix seconds by which to ask again, where it waits.

        None: it may start now, and has its place.
        """
        if task.kind not in ROUTED or not self.router.may_wait:
            return None
        try:
            routed = self.router.ask(task, ready, may_wait=True)
        except IroncliwError:
            return None  # `run` meets it again, and tells
        # boundary: a fault in what places steps must not take one out of the queue
        except Exception:
            logger.exception("%s could not be asked about; it starts", task.key)
            return None
        if routed.place == WAIT:
            return routed.ask_again_at
        self._routed[task.key, task.attempt] = routed
        return None

    def is_idempotent(self, kind: StepKind, target: str, options: Mapping[str, Any]) -> bool:
        """What the function or the capability declares; an unknown one declares nothing."""
        if kind == "agent":
            return self._agent_is_idempotent(target, options)
        try:
            return kind == "function" and find(target).idempotent
        except NotFoundError:
            return False

    def forget(self, task: StepTask) -> None:
        """See `actors.workflow.tasks.Executor`: a place that `admit` gave and nobody took is free.

        Where `run` was entered it has taken the place, and given it back itself.
        """
        routed = self._routed.pop((task.key, task.attempt), None)
        if routed is not None:
            self._end(task, routed, "cancelled", 0.0, {})

    def node_of(self, task: StepTask) -> str | None:
        """Where that attempt runs now."""
        return self._nodes.get((task.key, task.attempt)) or None

    def started_at(self, key: str, attempt: int, node: str) -> None:
        """An attempt has begun on a node, as that told by itself."""
        if (key, attempt) in self._nodes:
            self._nodes[key, attempt] = node
            self.router.started((key, attempt), node)

    async def _run(self, task: StepTask, place: str, begun: float) -> StepResult:
        attempt = (task.key, task.attempt)
        self._nodes[attempt] = self._home if place == LOCAL and self._home else ""
        try:
            done = await self._kinds[task.kind].run(
                await self._resolved(task), place, lambda node: self.started_at(*attempt, node)
            )
            try:
                return await self._kept(task, done, begun)
            except IroncliwError as error:
                if not task.is_compensation:
                    raise step_error(error).after_work() from error
                # what it was to undo is undone, and nobody needs what it gave
                logger.warning("the result of compensation %s is not kept: %s", task.key, error)
                seconds = time.monotonic() - begun
                return StepResult(node=done.node, place=done.place, seconds=seconds)
        finally:
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
            cpu_seconds=done.cpu_seconds,
        )

    def _place(self, task: StepTask) -> Routed:
        """Where it runs: as was decided before its start, or now."""
        if task.kind not in ROUTED:
            return Routed(LOCAL)
        routed = self._routed.pop((task.key, task.attempt), None)
        if routed is None:
            routed = self.router.ask(task, Ready(time.time()), may_wait=False)
        return routed

    def _end(
        self,
        task: StepTask,
        routed: Routed,
        outcome: str,
        seconds: float,
        facts: Mapping[str, Any],
    ) -> None:
        self.router.ended((task.key, task.attempt), facts.get("run_seconds"))
        if task.kind in ROUTED:
            self.router.note_outcome(task.key, routed.place, outcome, str(facts.get("cause", "")))
        if self._observer is not None:
            self._observer.on_attempt(task.kind, routed.place, outcome, seconds)
        if self._log is not None:
            told: dict[str, Any] = {
                "outcome": outcome,
                "seconds": round(seconds, 6),
                "ended_at": round(time.time(), 3),
                "place": routed.place,
                **facts,
            }
            self._log.outcome(routed.decision, told)


def _routed(steps: Sequence[Waiting]) -> list[Waiting]:
    return [one for one in steps if one.task.kind in ROUTED]


def _measured(result: StepResult) -> dict[str, Any]:
    """What the decision log keeps of an attempt that ended well."""
    facts = {
        "node": result.node,
        "run_seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "cpu_seconds": result.cpu_seconds,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _exit(error: StepError) -> dict[str, Any]:
    """Why it failed, where Ray says it: the name of its error, such as OutOfMemoryError."""
    cause = error.__cause__
    return {} if cause is None else {"cause": type(cause).__name__}
