"""Transitions of a workflow: what is committed, and from what alone a workflow is rebuilt.

| kind | data |
|---|---|
| submitted | |
| step_started | idempotent |
| step_completed | value or reference and size; node, place, seconds, peak_bytes where known |
| step_failed, step_timed_out | error; retry_at where another attempt follows; acted |
| step_skipped | |
| step_uncertain | error |
| step_released | |
| step_waived | value |
| step_cancelled | |
| compensation_... | as of steps, without skipped |
| paused, resumed, cancel_requested | |
| deadline_passed, failed | error |
| cancelled | |
| completed | output |

`step_released` is a user's retry, `step_waived` a user's skip, `step_cancelled` an attempt that was
stopped because the workflow fails or is cancelled. `acted` says that a step had done its work when
its result was refused, so that it is undone with the others. An error is `{kind, message}`, of a
workflow also `step` and `item`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

EventKind = Literal[
    "submitted",
    "step_started",
    "step_completed",
    "step_failed",
    "step_timed_out",
    "step_skipped",
    "step_uncertain",
    "step_released",
    "step_waived",
    "step_cancelled",
    "compensation_started",
    "compensation_completed",
    "compensation_failed",
    "compensation_timed_out",
    "compensation_uncertain",
    "compensation_released",
    "compensation_waived",
    "compensation_cancelled",
    "paused",
    "resumed",
    "cancel_requested",
    "deadline_passed",
    "cancelled",
    "completed",
    "failed",
]
EVENT_KINDS: frozenset[EventKind] = frozenset(get_args(EventKind))


@dataclass(frozen=True, slots=True)
class Event:
    """One transition.

    Attributes:
        kind: What happened.
        at: When, in Unix seconds.
        step: Name of the step; None for the workflow itself.
        item: Of a fan-out, from 0.
        attempt: Which attempt of the step it ends or begins.
        data: JSON, by kind.
    """

    kind: EventKind
    at: float
    step: str | None = None
    item: int | None = None
    attempt: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
