"""What the orchestrator hands to an executor, and what comes back.

An executor runs one attempt of one step. It holds no state of the workflow: the orchestrator has
committed that the attempt starts before the executor hears of it, and commits what it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ironcliw.errors import IroncliwError
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import Place, StepKind

FailureKind = Literal[
    "error", "invalid", "lost", "moved", "oversized", "refused", "restarted", "timeout", "unstopped"
]
"""Why an attempt failed.

error: the work ran and raised. invalid: its inputs or its definition cannot be used. lost: its
process or node is gone and nobody knows how far it came. moved: it was taken off a node that is
going away. oversized: a value is larger than the limit. refused: nothing was started (no capacity,
nobody has the capability). restarted: the orchestrator was restarted while it ran. timeout: it ran
past its time. unstopped: it was told to stop and may still be at it."""

CLOSING = "closing"
"""With this message an attempt is cancelled because the orchestrator ends, and not its workflow."""
REFERENCE_KEY = "$reference"
"""Inputs hold `{"$reference": URI}` in place of a result that is kept outside of the store."""
READS_RESULTS: frozenset[StepKind] = frozenset({"function"})
"""Steps of these kinds read such results where they run; for others the executor does, so what
they are handed counts in full."""


@dataclass(frozen=True, slots=True)
class StepTask:
    """One attempt of one step.

    Attributes:
        workflow_id: The workflow that it belongs to.
        step: The step's name in the definition.
        item: Which item of a fan-out, from 0; None where the step is none.
        attempt: From 1; a result of an attempt that is not the current one is dropped.
        kind: What is to be done.
        target: A function's registered name, an agent's capability or name; "" for other kinds.
        inputs: JSON values: of functions and agents the arguments, else the kind's own block.
            A value may be `{"$reference": URI}`.
        options: How an agent is chosen, as `AgentForm` says; empty for other kinds.
        timeout_seconds: The orchestrator cancels `Executor.run` after it; None: no limit.
        deadline: Of the workflow, in Unix seconds; None: none.
        priority: Of the workflow.
        memory_gb: What the step needs, in gigabytes (1e9); None: not known.
        expected_seconds: How long the step takes, by its author; None: not known.
        place: Where it may run; `private`: it never leaves the head.
        idempotent: Whether it may be run again when nobody knows how far it came.
        key: The same for every attempt: for services that recognise a request sent twice.
        is_compensation: It undoes the step.
        node: A machine that was chosen for it; empty: any of its place.
    """

    workflow_id: str
    step: str
    item: int | None
    attempt: int
    kind: StepKind
    target: str
    inputs: Mapping[str, Any]
    key: str
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float | None = None
    deadline: float | None = None
    priority: Priority = "normal"
    memory_gb: float | None = None
    expected_seconds: float | None = None
    place: Place = "any"
    idempotent: bool = False
    is_compensation: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an attempt gave.

    Attributes:
        value: JSON; None where the result is kept by reference.
        reference: URI of a result that is too large for the store; None: `value` is the result.
        size: Bytes of what `reference` names.
        node: Where it ran.
        place: `local` or `spot`.
        seconds: How long it ran, waiting not included.
        peak_bytes: Most memory that it used, where that was measured.
        cpu_seconds: Of processor time, likewise; no event has it, the decision log does.
    """

    value: Any = None
    reference: str | None = None
    size: int | None = None
    node: str | None = None
    place: str | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    cpu_seconds: float | None = None


class StepError(IroncliwError):
    """An attempt failed.

    Args:
        kind: Why; `lost` sends a step that is not idempotent to its user as `uncertain`.
        message: What was given, which rule it broke, what to do.
        retryable: Whether another attempt may succeed; its retry policy says how many there are.
        retry_after: Seconds before which another attempt is of no use.
        acted: The work was done, and its result is what cannot be used: it is undone as a step
            that succeeded, and done again only where that is harmless.
    """

    default_code = "step_failed"

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        retryable: bool = True,
        *,
        retry_after: float | None = None,
        acted: bool = False,
    ) -> None:
        super().__init__(message)
        self.failure: FailureKind = kind
        self.retryable = retryable
        self.retry_after = retry_after
        self.acted = acted

    def after_work(self) -> StepError:
        """The same error, of an attempt that has done its work."""
        self.acted = True
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.failure, self.message, self.retryable, self.retry_after, self.acted)
        return _rebuild, fields


def _rebuild(
    kind: FailureKind, message: str, retryable: bool, retry_after: float | None, acted: bool
) -> StepError:
    return StepError(kind, message, retryable, retry_after=retry_after, acted=acted)


class Executor(Protocol):
    """Runs attempts; many at once."""

    async def run(self, task: StepTask) -> StepResult:
        """Runs one attempt to its end. Cancelled, it stops the work before it returns.

        Where the cancellation's message is `CLOSING`, work that can outlive the orchestrator is let
        go on: the next one finds it, or its user does.

        Raises:
            StepError: The attempt failed.
        """
        ...

    async def end(self, task: StepTask) -> None:
        """Has nothing more done for an attempt that an earlier orchestrator started.

        Args:
            task: Of it; without inputs and options.

        Raises:
            StepError: `unstopped`: it may still be at it.
        """
        ...

    def is_idempotent(self, kind: StepKind, target: str, options: Mapping[str, Any]) -> bool:
        """What the function or capability declares, for steps whose definition does not say.

        Args:
            kind: As of `StepTask`; `target` and `options` likewise.
        """
        ...

    def forget(self, task: StepTask) -> None:
        """The attempt is over, however: keep nothing for it. `run` need not have begun with it."""
        ...

    def node_of(self, task: StepTask) -> str | None:
        """Where that attempt runs now; None: not known, or on no node that could go away."""
        ...
