"""What can be set of an orchestrator."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.workflow.limits import Limits


@dataclass(frozen=True, slots=True)
class OrchestratorOptions:
    """Times are in seconds.

    Attributes:
        max_running: Attempts at once, over all workflows.
        stop_seconds: An executor that has not stopped so long after it was told is left behind.
        limits: Of one workflow.
    """

    max_running: int = 256
    stop_seconds: float = 10.0
    limits: Limits = field(default_factory=Limits)
