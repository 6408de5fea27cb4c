"""What carries out the steps of one kind, and what it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ValidationError

from actors.results import to_json
from actors.workflow.tasks import FailureKind, StepError, StepTask
from ironcliw.errors import (
    DeadlineExceededError,
    IroncliwError,
    NotRunningError,
    OverloadedError,
    RequestError,
    RequestTooLargeError,
    UnavailableError,
)
from ironcliw.problems import what_is_wrong

FormT = TypeVar("FormT", bound=BaseModel)
_SENDERS_FAULT = frozenset({"invalid_request_error", "authentication_error", "permission_error"})


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What one attempt gave.

    Attributes:
        content: The result as JSON; it may be large, so it is parsed only where it is needed.
        node: Where it ran.
        place: `local` or `spot`.
        seconds: How long it ran, waiting not included; None: all of the attempt.
        peak_bytes: Most memory that it used, where that was measured.
        cpu_seconds: Of processor time, likewise.
    """

    content: bytes
    node: str | None = None
    place: str | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    cpu_seconds: float | None = None

    @classmethod
    def of(cls, value: Any, task: StepTask, **facts: Any) -> Done:
        """A result that is not JSON yet.

        Raises:
            StepError: JSON cannot say it.
        """
        try:
            return cls(to_json(value, result_of(task)), **facts)
        except RequestError as error:
            raise StepError("invalid", error.message, retryable=False, acted=True) from error


class KindExecutor(Protocol):
    """Carries out the steps of one kind."""

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        """One attempt; cancelled, it stops the work before it returns.

        Args:
            task: Its inputs hold no references any more, but for kinds of `READS_RESULTS`.
            place: `local` or `spot`, as the policy chose.
            started: To be told the node's id when that is known; it need not be.

        Raises:
            StepError: it failed.
        """
        ...


@runtime_checkable
class Lasting(Protocol):
    """Carries out steps that go on when the orchestrator ends."""

    async def end(self, task: StepTask) -> None:
        """See `actors.workflow.tasks.Executor`."""
        ...


def result_of(task: StepTask) -> str:
    """Names the result in messages: `the result of step fetch[3]`."""
    item = "" if task.item is None else f"[{task.item}]"
    return f"the result of step {task.step}{item}"


def parse_block(form: type[FormT], task: StepTask) -> FormT:
    """A step's block as that form.

    Raises:
        StepError: a field is unknown, missing or of another type.
    """
    try:
        return form.model_validate(dict(task.inputs))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join((task.kind, *map(str, first["loc"])))
        known = [field.alias or name for name, field in form.model_fields.items()]
        raise StepError(
            "invalid", f"{where}: {what_is_wrong(first, known)}", retryable=False
        ) from None


def step_error(error: IroncliwError) -> StepError:
    """An error of our tree as the failure of an attempt."""
    if isinstance(error, StepError):
        return error
    kind: FailureKind = "error"
    if isinstance(error, OverloadedError | UnavailableError | NotRunningError):
        kind = "refused"
    elif isinstance(error, DeadlineExceededError):
        kind = "timeout"
    elif isinstance(error, RequestTooLargeError):
        kind = "oversized"
    elif error.kind in _SENDERS_FAULT:
        kind = "invalid"
    retryable = kind not in {"invalid", "oversized"}
    failed = StepError(
        kind, error.message, retryable, retry_after=getattr(error, "retry_after", None)
    )
    failed.__cause__ = error
    return failed
