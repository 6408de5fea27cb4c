"""What agents and workflows export through Ray's metrics agent; `/metrics` relays its page."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

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
