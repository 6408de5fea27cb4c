"""Puts the parts of the control actor together: journal, executors, orchestrator, agents."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import ray

from actors.agents.ray_hosts import RayHosts
from actors.agents.records import JournalStore
from actors.agents.service import AgentService
from actors.agents.system import AgentSystem
from actors.decision_log import DecisionLog
from actors.functions import load_modules
from actors.journal import Journal
from actors.lease import Lease
from actors.machine_facts import MachineFacts
from actors.metrics import WorkflowMetrics
from actors.node_watch import NodeWatch, RayNodes
from actors.orchestration.options import OrchestratorOptions
from actors.orchestrator import Orchestrator
from actors.results import Results, results_url
from actors.routing import load_policy
from actors.steps.agent_call import AgentCalls
from actors.steps.agent_choice import declares_idempotent
from actors.steps.executor import StepExecutor
from actors.steps.function_call import FunctionCalls
from actors.steps.http_call import HttpCall
from actors.steps.kinds import KindExecutor
from actors.steps.model_calls import ModelCalls, client_of
from actors.steps.ray_jobs import RayJobs
from actors.steps.train_job import TrainJobs
from actors.workflow_records import count_by_status
from actors.workflow_service import WorkflowService, check_functions
from cluster.config import GROUP_LABEL, SPOT_TYPE
from cluster.head import project_code
from cluster.head.ray_environment import dashboard_url, has_workers
from ironcliw.catalog import Catalog
from ironcliw.errors import IroncliwError
from ironcliw.schemas.workflows import StepKind
from ironcliw.settings import Settings
from ironcliw.store import Store

logger = logging.getLogger(__name__)

_METRICS_SECONDS = 5.0


class Part(Protocol):
    """What others call through the control actor: the methods that it names."""

    METHODS: frozenset[str]


@dataclass
class Composition:
    """All that runs in the control actor. It is never closed: whatever ends it is a crash to it.

    Attributes:
        parts: By name, for `Control.answer`.
        executor: Of steps.
        journal: Writes to the store.
        orchestrator: Of workflows.
        agents: All of them.
        log: Of routing decisions.
        metrics: Exported.
        watch: Of machines in the cloud; None where there are none.
        code: Archives for workers, each with its packages; held while this runs.
    """

    parts: Mapping[str, Part]
    executor: StepExecutor
    journal: Journal
    orchestrator: Orchestrator
    agents: AgentSystem
    log: DecisionLog
    metrics: WorkflowMetrics
    watch: NodeWatch | None = None
    code: Sequence[tuple[str, Sequence[str]]] = field(default_factory=tuple)

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the requests, until it is cancelled."""
        works = [self.log.run(), self._export()]
        if self.watch is not None:
            leaving = (self.orchestrator.node_leaving, self.agents.node_leaving)
            works.append(self.watch.run(leaving))
        works += [project_code.keep(uri, packages=packages) for uri, packages in self.code]
        return works

    async def _export(self) -> None:
        while True:
            try:
                self.metrics.on_workflows(await self.journal.read(count_by_status))
            except IroncliwError as error:
                logger.warning("workflows are not counted for now: %s", error)
            counts = self.journal.counts
            self.metrics.on_counts(counts.committed, counts.transactions, self.log.lost)
            await asyncio.sleep(_METRICS_SECONDS)


async def compose(
    settings: Settings, store: Store, lease: Lease, code_uri: str | None, control: Any
) -> Composition:
    """Build everything and go on with the workflows that are open.

    Args:
        settings: As given to `up`.
        store: Migrated.
        lease: Ours.
        code_uri: The project's code for workers in the cloud; None where there are none.
        control: Handle of the actor that this runs in.

    Raises:
        SettingsError: a module, the policy or another setting is wrong.
        StoreError: the store cannot be used.
    """
    load_modules(settings.actors.modules)
    policy = load_policy(settings.routing.policy)
    journal = Journal(store, lease=lease)
    routing = settings.routing
    log = DecisionLog(journal, routing.keep_days, enabled=routing.log_decisions)
    metrics = WorkflowMetrics()
    watch = None
    if has_workers(settings):
        watch = NodeWatch(RayNodes(GROUP_LABEL, SPOT_TYPE), settings.cloud.notice_seconds)
    code = code_of(settings, code_uri)
    uris = [uri for uri, _ in code]
    agents = AgentSystem(
        JournalStore(journal), RayHosts(settings.log, uris), cloud=has_workers(settings)
    )
    results = _results(settings)
    executor = StepExecutor(
        _kinds(settings, agents, uris, control),
        results,
        policy,
        MachineFacts(watch is not None, (lambda: ()) if watch is None else watch.workers),
        log,
        agent_is_idempotent=partial(declares_idempotent, agents.registry),
        home=ray.get_runtime_context().get_node_id(),
        observer=metrics,
    )
    options = OrchestratorOptions(max_running=settings.actors.max_running_steps)
    orchestrator = Orchestrator(journal, executor, time.time, options, check=check_functions)
    # before the workflows go on, whose steps ask them
    await agents.start()
    await orchestrator.start()
    parts: dict[str, Part] = {
        "workflows": WorkflowService(orchestrator, journal, results),
        "agents": AgentService(agents),
    }
    return Composition(parts, executor, journal, orchestrator, agents, log, metrics, watch, code)


def _results(settings: Settings) -> Results:
    actors = settings.actors
    url = results_url(actors.results_url, settings.state_dir)
    return Results(url, actors.inline_bytes, actors.result_bytes)


def _kinds(
    settings: Settings,
    agents: AgentSystem,
    code_uris: Sequence[str],
    control: Any,
) -> Mapping[StepKind, KindExecutor]:
    key = settings.client.api_key
    client = client_of(settings.service_url, None if key is None else key.get_secret_value())
    models = ModelCalls(client, Catalog.of(settings), has_workers(settings))
    environment = {"py_modules": list(code_uris)} if code_uris else {}
    jobs = RayJobs(dashboard_url(settings))
    return {
        "function": FunctionCalls(
            settings.actors,
            environment,
            control,
            results_url(settings.actors.results_url, settings.state_dir),
        ),
        "agent": AgentCalls(agents),
        "http": HttpCall(settings.actors),
        "embed": models,
        "decide": models,
        "generate": models,
        "train": TrainJobs(
            jobs, settings.state_dir / "workflow-configs", has_cloud=has_workers(settings)
        ),
    }


def code_of(settings: Settings, code_uri: str | None) -> tuple[tuple[str, Sequence[str]], ...]:
    """Archives that workers in the cloud need, each with its packages: ours, and the user's own."""
    if code_uri is None:
        return ()
    ours: tuple[str, Sequence[str]] = (code_uri, project_code.PACKAGES)
    names = {module.partition(".")[0] for module in settings.actors.modules}
    own = sorted(names - set(project_code.PACKAGES))
    if not own:
        return (ours,)
    code = project_code.pack(own)
    project_code.publish(code)
    return (ours, (code.uri, own))
