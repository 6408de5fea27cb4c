"""How workflows and agents stand: exported every few seconds, and told to whoever asks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from actors import message_records, workflow_records
from actors.agents.figures import Figures, Standing
from ironcliw.errors import IroncliwError
from ironcliw.schemas.workflows import FINISHED

logger = logging.getLogger(__name__)

T = TypeVar("T")
EXPORT_SECONDS = 5.0
COUNT_SECONDS = 60.0
_PAUSE_FACTOR = 100.0
"""What has ended is counted in the store, which reads all of it: a hundredth of the time at most,
and once a minute at least."""


class Reader(Protocol):
    """What reads the store: `actors.journal.Journal`."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run it on one snapshot."""


class Workflows(Protocol):
    """What is needed of `actors.orchestrator.Orchestrator`."""

    @property
    def running(self) -> int: ...

    @property
    def queued(self) -> int: ...

    def open_by_status(self) -> Mapping[str, int]: ...


class Agents(Protocol):
    """What is needed of `actors.agents.system.AgentSystem`."""

    figures: Figures

    def standing(self) -> Standing: ...


class WorkflowGauges(Protocol):
    """Where figures go: `actors.metrics` has those for Prometheus."""

    def on_workflows(self, by_status: Mapping[str, int]) -> None: ...


class AgentGauges(Protocol):
    """The same of agents."""

    def on_figures(self, figures: Figures) -> None: ...

    def on_standing(self, standing: Standing) -> None: ...

    def on_dead_letters(self, count: int) -> None: ...


class Exporter:
    """Counts what there is.

    Args:
        reader: Of the store, for what has ended.
        workflows: Those that are open.
        agents: All of them.
        workflow_gauges: Told of workflows.
        agent_gauges: Told of agents.
        also: Called at each round.
    """

    def __init__(
        self,
        reader: Reader,
        workflows: Workflows,
        agents: Agents,
        workflow_gauges: WorkflowGauges,
        agent_gauges: AgentGauges,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._workflows = workflows
        self._agents = agents
        self._workflow_gauges = workflow_gauges
        self._agent_gauges = agent_gauges
        self._also = also
        self._ended: Mapping[str, int] = {}
        self._dead_letters: int | None = None

    async def run(self) -> None:
        """Export until cancelled."""
        while True:
            begun = time.monotonic()
            await self.count()
            again = begun + min(_PAUSE_FACTOR * (time.monotonic() - begun), COUNT_SECONDS)
            self.export()
            await asyncio.sleep(EXPORT_SECONDS)
            while time.monotonic() < again:
                self.export()
                await asyncio.sleep(EXPORT_SECONDS)

    async def count(self) -> None:
        """Count what has ended; a store that is away leaves the counts as they are."""
        try:
            found = await self._reader.read(workflow_records.count_by_status)
            messages = await self._reader.read(message_records.count_by_status)
        except IroncliwError as error:
            logger.warning("workflows are not counted for now: %s", error)
            return
        self._ended = {status: found[status] for status in FINISHED if status in found}
        self._dead_letters = messages.get(message_records.DEAD, 0)

    def export(self) -> None:
        """Tell the gauges."""
        self._workflow_gauges.on_workflows(self._by_status())
        self._agent_gauges.on_figures(self._agents.figures)
        self._agent_gauges.on_standing(self._agents.standing())
        if self._dead_letters is not None:
            self._agent_gauges.on_dead_letters(self._dead_letters)
        self._also()

    def status(self) -> dict[str, Any]:
        """For `/v1/status`; nothing is asked of the store."""
        standing = self._agents.standing()
        return {
            "workflows": self._by_status(),
            "steps": {"running": self._workflows.running, "queued": self._workflows.queued},
            "agents": {status: n for status, n in standing.agents.items() if n},
            "messages": {
                "waiting": sum(standing.waiting.values()),
                "durable": standing.on_the_way,
                "dead_letters": self._dead_letters,
            },
            "open_circuits": sorted(standing.open_circuits),
        }

    def _by_status(self) -> dict[str, int]:
        return dict(Counter(self._ended) + Counter(self._workflows.open_by_status()))
