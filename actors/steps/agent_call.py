"""The agent step: asks an agent, found by its capability or by its name.

    agent: summarise                 # whoever has the capability
    with: {text: "..."}              # what its method is given, as one object

`agent: {capability: summarise, wait_seconds: 30}` waits for an agent that is not there yet; without
it a capability that nobody has fails the attempt at once. One that waits does not count among the
steps that run at once. `agent: {name: writer, method: edit}` means one agent; `method` may be left
out where it has one capability alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from actors.agents.directory import Listing
from actors.agents.link import HostGoneError, HostLostError
from actors.registry import Registry
from actors.steps.agent_choice import agent_at_home, only_capability
from actors.steps.kinds import Done, step_error
from actors.workflow.seats import without_seat
from actors.workflow.tasks import CLOSING, StepError, StepTask
from ironcliw.errors import (
    AgentError,
    IroncliwError,
    NotFoundError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

WITHDRAW_SECONDS = 5.0
"""How long an agent may take to leave off what it is at; less than the orchestrator waits."""
# An agent is asked with a deadline always, so that nobody waits for ever.
_LONGEST_SECONDS = 7 * 86_400.0
_SHORTEST_SECONDS = 0.001
_DEFAULT_STRATEGY = "least_loaded"


class Agents(Protocol):
    """What asks agents: `actors.agents.system.AgentSystem`."""

    @property
    def registry(self) -> Registry:
        """All agents."""

    async def ask(self, target: str, body: Any = None, **options: Any) -> Any:
        """See `Agent.ask`."""

    async def look_up(
        self, target: str, wait_seconds: float = 0.0, *, unknown_seconds: float = 0.0
    ) -> Listing:
        """See `Directory.look_up`."""

    async def withdraw(
        self, message_id: str, hosts: Collection[str] | None, seconds: float
    ) -> bool:
        """Have nothing more done for a message, by these hosts or by all; whether nothing is."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A step's message.

    Attributes:
        id: of it.
        hosts: those that may have it; None: nobody knows which.
    """

    id: str
    hosts: set[str] | None


class AgentCalls:
    """Executes agent steps.

    Args:
        agents: All of the cluster.
    """

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        """See `actors.steps.kinds.KindExecutor`; the agent's own place counts."""
        sent = _Sent(_message_id(task), set())
        try:
            target, options = await self._whom(task)
            value = await self._agents.ask(
                target,
                dict(task.inputs),
                message_id=sent.id,
                given_to=sent.hosts,
                waiting=without_seat,
                **options,
            )
        except asyncio.CancelledError as cancelled:
            # one that is not told goes on, for its result is what the next orchestrator hopes for
            if CLOSING not in cancelled.args:
                await self._withdraw(task, sent)
            raise
        except IroncliwError as error:
            failed = _failed(error)
            if failed.failure in ("timeout", "lost"):
                # whoever asked is told at once; a thread, which cannot be broken off, goes on
                await self._withdraw(task, sent)
            raise failed from error
        return Done.of(value, task)

    async def end(self, task: StepTask) -> None:
        """See `actors.steps.kinds.Lasting`: agents go on without the orchestrator that asked."""
        await self._withdraw(task, _Sent(_message_id(task), None))

    async def _whom(self, task: StepTask) -> tuple[str, dict[str, Any]]:
        """Target and options of the question, once somebody is there for it."""
        options, registry = _options(task), self._agents.registry
        with without_seat():
            listing = await self._agents.look_up(
                task.target,
                options["deadline_seconds"],
                unknown_seconds=min(options["wait_seconds"], options["deadline_seconds"]),
            )
        options["deadline_seconds"] = _seconds_left(task)
        if task.options.get("by") == "name" and options["capability"] is None:
            options["capability"] = only_capability(registry, task.target)
        if task.place != "private":
            return task.target, options
        # by its name: another one that comes up meanwhile may be elsewhere
        agent = agent_at_home(registry, task.target, listing, options["strategy"])
        if not listing.by_name:
            options["capability"] = task.target
        return agent, options

    async def _withdraw(self, task: StepTask, sent: _Sent) -> None:
        """Have the agent leave off, before what undoes the step is begun.

        Raises:
            StepError: nobody knows whether it has.
        """
        withdrawing = asyncio.ensure_future(
            self._agents.withdraw(sent.id, sent.hosts, WITHDRAW_SECONDS)
        )
        try:
            stopped = await asyncio.shield(withdrawing)
        except asyncio.CancelledError as cancelled:
            if CLOSING in cancelled.args:
                raise
            # its workflow turns while it is asked: that it may still be at it counts all the same
            stopped = await withdrawing
        if not stopped:
            raise StepError(
                "unstopped",
                f"the agent of step {task.step!r} was told to stop and may still be at it",
            )


def _message_id(task: StepTask) -> str:
    """The next orchestrator knows it, too."""
    return f"{task.key}/{task.attempt}"


def _failed(error: IroncliwError) -> StepError:
    match error:
        case HostGoneError() | NotFoundError():
            return StepError("refused", error.message)
        case HostLostError():
            return StepError("lost", error.message)
        case UnavailableError() if error.code == HostLostError.default_code:
            # broken off in its midst, as where its machine ends: nobody knows how far it came
            return StepError("lost", error.message)
        case AgentError():
            return StepError("error", error.message)
        case _:
            return step_error(error)


def _options(task: StepTask) -> dict[str, Any]:
    options = task.options
    return {
        "capability": options.get("method"),
        "strategy": options.get("strategy", _DEFAULT_STRATEGY),
        "wait_seconds": options.get("wait_seconds", 0.0),
        "priority": task.priority,
        "deadline_seconds": _seconds_left(task),
    }


def _seconds_left(task: StepTask) -> float:
    seconds = task.timeout_seconds or _LONGEST_SECONDS
    if task.deadline is not None:
        seconds = min(seconds, task.deadline - time.time())
    return max(seconds, _SHORTEST_SECONDS)
