"""What agents and workflows export through Ray's metrics agent; `/metrics` relays its page."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ray.util.metrics import Counter, Gauge, Histogram

from actors.agents.figures import Figures, Standing
from actors.agents.reports import BOUNDS
from ironcliw.schemas.workflows import WorkflowStatus

_SECONDS = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200]
_STATUSES: tuple[WorkflowStatus, ...] = WorkflowStatus.__args__  # type: ignore[attr-defined]


class WorkflowMetrics:
    """Counters and gauges of the control actor; an `actors.steps.executor.Observer`."""

    def __init__(self) -> None:
        self._attempts = Counter(
            "ironcliw_workflow_attempts_total",
            "Attempts of steps that have ended.",
            ("kind", "place", "outcome"),
        )
        self._seconds = Histogram(
            "ironcliw_workflow_attempt_seconds", "Time of an attempt.", _SECONDS, ("kind",)
        )
        self._workflows = Gauge(
            "ironcliw_workflows", "Workflows in the store, by status.", ("status",)
        )
        self._transitions = Counter(
            "ironcliw_journal_commits_total", "Works committed to the store."
        )
        self._transactions = Counter(
            "ironcliw_journal_transactions_total", "Transactions they were committed in."
        )
        self._lost = Counter("ironcliw_routing_rows_lost_total", "Decisions that were not logged.")
        self._counts = (0, 0, 0)

    def on_attempt(self, kind: str, place: str, outcome: str, seconds: float) -> None:
        """Count one attempt."""
        self._attempts.inc(1, {"kind": kind, "place": place, "outcome": outcome})
        self._seconds.observe(seconds, {"kind": kind})

    def on_workflows(self, by_status: Mapping[str, int]) -> None:
        """Set the gauges; a status that nobody has counts 0."""
        for status in _STATUSES:
            self._workflows.set(by_status.get(status, 0), {"status": status})

    def on_counts(self, committed: int, transactions: int, lost: int) -> None:
        """Take in counts that grow since the start."""
        now = (committed, transactions, lost)
        counters = (self._transitions, self._transactions, self._lost)
        for counter, before, after in zip(counters, self._counts, now, strict=True):
            if after > before:
                counter.inc(after - before)
        self._counts = now


# Ray takes single values, and hosts tell counts between bounds: the middle of each stands for them
_MIDDLES = (BOUNDS[0] / 2, *(sum(pair) / 2 for pair in pairwise(BOUNDS)), 2 * BOUNDS[-1])


class AgentMetrics:
    """Counters and gauges of all agents."""

    def __init__(self) -> None:
        self._messages = Counter(
            "ironcliw_agent_messages_total",
            "Messages that agents have dealt with, or that found no place.",
            ("capability", "outcome"),
        )
        self._seconds = Histogram(
            "ironcliw_agent_message_seconds", "Time of the work.", list(BOUNDS), ("capability",)
        )
        self._restarts = Counter(
            "ironcliw_agent_restarts_total", "Agents that were started again.", ("cause",)
        )
        self._dead = Counter("ironcliw_agent_dead_letters_total", "Messages that were given up.")
        self._unheard = Counter(
            "ironcliw_agent_unheard_failures_total",
            "Messages that failed and whose sender waited for no answer.",
        )
        self._agents = Gauge("ironcliw_agents", "Agents, by status.", ("status",))
        self._waiting = Gauge(
            "ironcliw_agent_mailbox_messages", "Messages that wait, by priority.", ("priority",)
        )
        self._durable = Gauge("ironcliw_agent_durable_messages", "Messages that are not done.")
        self._letters = Gauge("ironcliw_dead_letters", "Dead letters in the store.")
        self._circuits = Gauge(
            "ironcliw_agent_open_circuits",
            "Processes that do not ask a capability for a while.",
            ("capability",),
        )
        self._told = Figures()
        self._were_open: set[str] = set()

    def on_figures(self, figures: Figures) -> None:
        """Take in counts that grow since the start."""
        for key, count in (figures.messages - self._told.messages).items():
            self._messages.inc(count, {"capability": key[0], "outcome": key[1]})
        for cause, count in (figures.restarts - self._told.restarts).items():
            self._restarts.inc(count, {"cause": cause})
        for capability, took in figures.took.items():
            before = self._told.took.get(capability, [0] * len(took))
            for middle, now, then in zip(_MIDDLES, took, before, strict=True):
                for _ in range(now - then):
                    self._seconds.observe(middle, {"capability": capability})
        for counter, now, then in (
            (self._dead, figures.dead_letters, self._told.dead_letters),
            (self._unheard, figures.unheard, self._told.unheard),
        ):
            if now > then:
                counter.inc(now - then)
        self._told = figures.copy()

    def on_standing(self, standing: Standing) -> None:
        """Set the gauges."""
        for status, count in standing.agents.items():
            self._agents.set(count, {"status": status})
        for priority, count in standing.waiting.items():
            self._waiting.set(count, {"priority": priority})
        self._durable.set(standing.on_the_way)
        # a series that is no longer set would keep its last value for ever
        for capability in self._were_open | standing.open_circuits.keys():
            count = standing.open_circuits.get(capability, 0)
            self._circuits.set(count, {"capability": capability})
        self._were_open |= standing.open_circuits.keys()

    def on_dead_letters(self, count: int) -> None:
        """Set the gauge of those that the store has."""
        self._letters.set(count)
