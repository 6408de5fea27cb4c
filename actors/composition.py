"""Puts the parts of the control actor together: journal, executors, orchestrator, agents."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ray

from actors.agents.code_copies import CodeCopies
from actors.agents.ray_hosts import RayHosts
from actors.agents.records import JournalStore
from actors.agents.service import AgentService
from actors.agents.system import AgentSystem
from actors.background import Work
from actors.decision_log import DecisionLog
from actors.exporter import Exporter
from actors.fleet_facts import FleetFacts
from actors.functions import load_modules
from actors.journal import Journal
from actors.lease import Lease
from actors.machine_facts import MachineFacts
from actors.metrics import AgentMetrics, WorkflowMetrics
from actors.node_watch import NodeWatch, RayNodes
from actors.orchestration.options import OrchestratorOptions
from actors.orchestrator import Orchestrator
from actors.pruning import Pruner
from actors.results import Results, results_url
from actors.router import Router
from actors.routing import load_policy
from actors.situation import SituationPolicy
from actors.steps.agent_call import AgentCalls
from actors.steps.agent_choice import declares_idempotent
from actors.steps.executor import StepExecutor
from actors.steps.function_call import FunctionCalls
from actors.steps.http_call import HttpCall
from actors.steps.kinds import KindExecutor
from actors.steps.model_calls import ModelCalls, client_of
from actors.steps.ray_jobs import RayJobs
from actors.steps.train_job import TrainJobs
from actors.submission_rules import SubmissionRules
from actors.workflow_service import WorkflowService
from cluster.config import GROUP_LABEL, SPOT_TYPE
from cluster.head import project_code
from cluster.head.ray_environment import dashboard_url, has_workers
from ironcliw.catalog import Catalog
from ironcliw.schemas.workflows import StepKind
from ironcliw.settings import Settings
from ironcliw.store import Store

logger = logging.getLogger(__name__)


class Part(Protocol):
    """What others call through the control actor: the methods that it names."""

    METHODS: frozenset[str]


@runtime_checkable
class Learner(Protocol):
    """A routing policy that has something to do while it is in use."""

    async def run(self, journal: Journal, changed: Callable[[], None]) -> None:
        """Until cancelled; it must survive a store that cannot be used for a while.

        Args:
            journal: To read and write the store with.
            changed: To be told when it would decide otherwise than a moment ago.
        """


@dataclass
class Composition:
    """All that runs in the control actor.

    Attributes:
        parts: By name, for `Control.answer`.
        executor: Of steps.
        journal: Writes to the store.
        orchestrator: Of workflows.
        agents: All of them.
        log: Of routing decisions.
        exporter: Of figures.
        pruner: Forgets what ended long ago.
        watch: Of machines in the cloud; None where there are none.
        fleet: Facts for a policy that is told everything; None where it is not.
        learner: What such a policy does beside, such as to learn; None: nothing.
        code: Archives for workers, each with its packages; held while this runs.
    """

    parts: Mapping[str, Part]
    executor: StepExecutor
    journal: Journal
    orchestrator: Orchestrator
    agents: AgentSystem
    log: DecisionLog
    exporter: Exporter
    pruner: Pruner
    watch: NodeWatch | None = None
    fleet: FleetFacts | None = None
    learner: Learner | None = None
    code: Sequence[tuple[str, Sequence[str]]] = field(default_factory=tuple)

    async def start(self) -> None:
        """Take up agents and open workflows; returns when all of them go on.

        Steps begin before that: `background` has to run, and whatever they tell has to be heard.

        Raises:
            StoreError: The store cannot be used.
            UnavailableError: Somebody else leads.
        """
        # beside each other: a host that is slow to answer must not keep steps that need no agent
        # from going on; those that do wait until theirs is found
        starts = [asyncio.create_task(one.start()) for one in (self.agents, self.orchestrator)]
        try:
            await asyncio.gather(*starts)
        finally:
            for one in starts:
                one.cancel()

    async def close(self, seconds: float) -> None:
        """Bring to an end what runs; a process that ends without it loses nothing that is durable.

        Args:
            seconds: For steps that may not be repeated, and for what agents are at.

        Raises:
            StoreError: The store cannot be used; whatever can be ended has ended all the same.
        """
        ends = self.orchestrator.close(seconds), self.agents.rest(seconds)
        results = await asyncio.gather(*ends, return_exceptions=True)
        await self._flush_log()
        await self.journal.close()
        for result in results:
            if result is not None:
                raise result

    async def _flush_log(self) -> None:
        try:
            await self.log.flush()
        # boundary: rows of the log are no promise, and the lease waits to be given back
        except Exception:
            logger.exception("the last routing decisions are not written")

    def background(self) -> dict[str, Work]:
        """What runs beside the requests until it is cancelled, by name."""
        works: dict[str, Work] = {
            "the decision log": self.log.run,
            "the export of figures": self.exporter.run,
            "the pruning of the store": self.pruner.run,
        }
        if self.watch is not None:
            leaving = (self.orchestrator.node_leaving, self.agents.node_leaving)
            works["the watch of machines"] = partial(self.watch.run, leaving)
        happened = self.orchestrator.something_happened
        if self.fleet is not None:
            works["the reading of machines and money"] = partial(self.fleet.run, happened)
        if self.learner is not None:
            works["the routing policy's work"] = partial(self.learner.run, self.journal, happened)
        for uri, packages in self.code:
            works[f"the holding of {uri}"] = partial(project_code.keep, uri, packages=packages)
        return works


async def compose(
    settings: Settings, store: Store, lease: Lease, code_uri: str | None, control: Any
) -> Composition:
    """Build everything; nothing goes on before `Composition.start`.

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
    policy = load_policy(settings.routing.policy, settings)
    journal = Journal(store, lease=lease)
    routing = settings.routing
    log = DecisionLog(journal, routing.keep_days, enabled=routing.log_decisions)
    metrics = WorkflowMetrics()
    watch = None
    if has_workers(settings):
        watch = NodeWatch(RayNodes(GROUP_LABEL, SPOT_TYPE), settings.cloud.notice_seconds)
    code = code_of(settings, code_uri)
    uris = [uri for uri, _ in code]
    hosts = RayHosts(settings.log, uris, CodeCopies(_agent_code(settings)))
    agents = AgentSystem(JournalStore(journal), hosts, cloud=has_workers(settings))
    fleet = FleetFacts(settings, store) if isinstance(policy, SituationPolicy) else None
    machine = MachineFacts(watch is not None, (lambda: ()) if watch is None else watch.workers)
    router = Router(policy, machine, fleet, log)
    results = _results(settings)
    executor = StepExecutor(
        _kinds(settings, agents, uris, control),
        results,
        router,
        machine,
        log,
        agent_is_idempotent=partial(declares_idempotent, agents.registry),
        home=ray.get_runtime_context().get_node_id(),
        observer=metrics,
    )
    options = OrchestratorOptions(max_running=settings.actors.max_running_steps)
    rules = SubmissionRules(settings.actors, Catalog.of(settings))
    orchestrator = Orchestrator(
        journal, executor, time.time, options, router.note_events, rules,
        executor if router.may_wait else None,
    )  # fmt: skip
    router.waiting = lambda: orchestrator.queued
    await agents.load()  # known before the workflows go on, whose steps ask them

    def count() -> None:
        metrics.on_counts(journal.counts.committed, journal.counts.transactions, log.lost)

    exporter = Exporter(journal, orchestrator, agents, metrics, AgentMetrics(), count)
    parts: dict[str, Part] = {
        "workflows": WorkflowService(orchestrator, journal, results),
        "agents": AgentService(agents),
    }
    folders = (_configs(settings), _agent_code(settings))
    pruner = Pruner(journal, results, settings.actors.keep_days, folders)
    learner = policy if isinstance(policy, Learner) else None
    return Composition(
        parts, executor, journal, orchestrator, agents, log, exporter, pruner, watch, fleet,
        learner, code,
    )  # fmt: skip


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
        "train": TrainJobs(jobs, _configs(settings), has_cloud=has_workers(settings)),
    }


def _agent_code(settings: Settings) -> Path:
    """Where the code of agents is kept that came with them."""
    return settings.state_dir / "agent-code"


def _configs(settings: Settings) -> Path:
    """Where train steps write configurations that a definition holds itself."""
    return settings.state_dir / "workflow-configs"


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
