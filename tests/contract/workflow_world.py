"""A real orchestrator on a real journal without Ray, behind the link that the HTTP routes use."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.journal import Journal
from actors.orchestrator import Orchestrator
from actors.results import Results, to_json
from actors.submission_rules import check_functions
from actors.workflow.tasks import StepError, StepResult, StepTask
from actors.workflow_service import WorkflowService
from ironcliw.errors import UnavailableError
from ironcliw.store import Store


class Scripted:
    """Executes steps by the name of their function: see `run`."""

    results: Results

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.held: set[str] = set()

    async def run(self, task: StepTask) -> StepResult:
        """`work.echo` gives its input; `work.hold` never ends; `work.lose` is lost."""
        self.runs[task.key] += 1
        if task.target == "work.hold":
            self.held.add(task.key)
            await asyncio.Event().wait()
        if task.target == "work.lose":
            raise StepError("lost", "its process died")
        content = to_json(dict(task.inputs), "it")
        if (address := self.results.keep(task.workflow_id, content, "it")) is not None:
            return StepResult(reference=address, size=len(content))
        return StepResult(dict(task.inputs), node="head", place="local")

    async def end(self, task: StepTask) -> None:
        """Nothing outlives its orchestrator here."""

    def is_idempotent(self, kind: str, target: str, options: Mapping[str, Any]) -> bool:
        return target == "work.echo"

    def forget(self, task: StepTask) -> None:
        pass

    def node_of(self, task: StepTask) -> str | None:
        return None


class World:
    """A `serve.workflow_routes.Workflows`; the orchestrator is made at the first call.

    Args:
        folder: Of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._url = f"sqlite:///{folder / 'workflows.db'}"
        self.executor = Scripted()
        self.results = Results(str(folder / "results"), inline_bytes=100, most_bytes=10_000)
        self.executor.results = self.results
        self.away = False
        self._service: WorkflowService | None = None

    async def status(self) -> dict[str, Any]:
        state = "waiting" if self.away else "leading"
        return {"state": state, "leader": "a head", "error": None, "workflows": {"running": 1}}

    async def workflows(self, method: str, *, repeatable: bool, **arguments: Any) -> Any:
        if self.away:
            raise UnavailableError("workflows and agents are not there now")
        if self._service is None:
            store = Store(self._url)
            store.migrate()
            journal = Journal(store)
            orchestrator = Orchestrator(journal, self.executor, check=check_functions)
            await orchestrator.start()
            self._service = WorkflowService(orchestrator, journal, self.results)
        assert method in WorkflowService.METHODS
        return await getattr(self._service, method)(**arguments)
