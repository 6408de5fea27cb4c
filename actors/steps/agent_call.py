"""The agent step: asks an agent, found by its capability or by its name.

    agent: summarise                 # whoever has the capability
    with: {text: "..."}              # what its method is given, as one object

`agent: {capability: summarise, wait_seconds: 30}` waits for an agent that is not there yet; without
it a capability that nobody has fails the attempt at once. `agent: {name: writer, method: edit}`
means one agent; `method` may be left out where it has one capability alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from actors.agents.link import HostGoneError, HostLostError
from actors.registry import Registry
from actors.steps.kinds import Done, step_error
from actors.workflow.tasks import StepError, StepTask
from ironcliw.errors import AgentError, IroncliwError, NotFoundError, UnavailableError

# An agent is asked with a deadline always; the orchestrator's own, if there is one, comes first.
_LONGEST_SECONDS = 7 * 86_400.0
_DEFAULT_STRATEGY = "least_loaded"


class Agents(Protocol):
    """What asks agents: `actors.agents.system.AgentSystem`."""

    registry: Registry

    async def ask(self, target: str, body: Any = None, **options: Any) -> Any:
        """See `Agent.ask`."""


class AgentCalls:
    """Executes agent steps.

    Args:
        agents: All of the cluster.
    """

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        """See `actors.steps.kinds.KindExecutor`; the agent's own place counts."""
        try:
            options = {**_options(task), "capability": self._method(task)}
            value = await self._agents.ask(task.target, dict(task.inputs), **options)
        except HostGoneError as error:
            raise StepError("refused", error.message) from error
        except HostLostError as error:
            raise StepError("lost", error.message) from error
        except NotFoundError as error:
            raise StepError("refused", error.message) from error
        except AgentError as error:
            raise StepError("error", error.message) from error
        except UnavailableError as error:
            if error.code != HostLostError.default_code:
                raise step_error(error) from error
            # broken off in its midst, as where its machine ends: nobody knows how far it came
            raise StepError("lost", error.message) from error
        except IroncliwError as error:
            raise step_error(error) from error
        return Done.of(value, task)

    def _method(self, task: StepTask) -> str | None:
        """Of an agent that is meant by its name: what is named, or the only one that it has."""
        method: str | None = task.options.get("method")
        if method is None and task.target in self._agents.registry:
            capabilities = [*self._agents.registry.get(task.target).capabilities]
            if len(capabilities) == 1:
                method = capabilities[0]
        return method


def _options(task: StepTask) -> Mapping[str, Any]:
    options = task.options
    return {
        "strategy": options.get("strategy", _DEFAULT_STRATEGY),
        "wait_seconds": options.get("wait_seconds", 0.0),
        "priority": task.priority,
        "deadline_seconds": task.timeout_seconds or _LONGEST_SECONDS,
    }


def declares_idempotent(registry: Registry, target: str) -> bool:
    """Whether every agent that has a capability declares it idempotent, running now or not."""
    found = registry.offering(target)
    return bool(found) and all(entry.capabilities[target].idempotent for entry in found)
