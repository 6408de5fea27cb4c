"""Workflows, as `POST /v1/workflows`, the command line and YAML files write them.

A form is checked here field by field. What concerns several fields (cycles, unknown steps, inputs
that nobody declared) is checked by `actors.workflow.definition`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StrictBool, StrictInt, StrictStr

from ironcliw.schemas.base import Answer, Priority, Request

StepKind = Literal["function", "agent", "http", "embed", "decide", "generate", "train"]
STEP_KINDS: tuple[StepKind, ...] = get_args(StepKind)
Place = Literal["local", "spot", "any", "private"]
WorkflowStatus = Literal[
    "running",
    "paused",
    "uncertain",
    "failing",
    "cancelling",
    "completed",
    "failed",
    "cancelled",
]
"""`uncertain`: nothing can go on before somebody retries or skips a step. `failing` and
`cancelling`: running steps are being stopped and completed ones undone."""
FINISHED: frozenset[WorkflowStatus] = frozenset({"completed", "failed", "cancelled"})
StepStatus = Literal[
    "pending",
    "ready",
    "running",
    "waiting",
    "completed",
    "failed",
    "skipped",
    "uncertain",
    "waived",
    "cancelled",
]
"""`pending`: waits for other steps. `waiting`: for its next attempt. `skipped`: its condition was
false. `waived`: its user skipped it. `cancelled`: stopped, or never started."""

Name = Annotated[StrictStr, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
"""Of a workflow, an input or a step. No dots: those separate the parts of a reference."""
Seconds = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]


class RetryForm(Request):
    """How often and when a step is tried again."""

    attempts: Annotated[StrictInt, Field(ge=1, le=100)] = Field(
        1, description="Attempts in all. Those lost with their machine do not count."
    )
    backoff_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        1.0, description="Wait before the second attempt."
    )
    factor: Annotated[float, Field(ge=1, le=100)] = Field(
        2.0, description="Each wait is so many times the one before."
    )
    max_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0, description="No wait is longer."
    )


class AgentForm(Request):
    """Which agent is called."""

    capability: StrictStr | None = Field(None, description="Any agent that has it.")
    name: StrictStr | None = Field(None, description="This agent.")
    method: StrictStr | None = Field(
        None, description="With `name`: which of its capabilities; left out, its only one."
    )
    wait_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        0.0, description="How long to wait for an agent with the capability; 0: fail at once."
    )
    strategy: StrictStr | None = Field(None, description="How one of several is chosen.")


_Block = dict[str, Any] | None


class CallForm(Request):
    """What is called: exactly one of the kinds."""

    function: StrictStr | None = Field(None, description="A registered function's name.")
    agent: StrictStr | AgentForm | None = Field(None, description="A capability, or which agent.")
    http: _Block = Field(None, description="`method`, `url`, `headers`, `json`.")
    embed: _Block = Field(None, description="As `POST /v1/embeddings`.")
    decide: _Block = Field(None, description="`input` and `labels`, or as `POST /v1/decisions`.")
    generate: _Block = Field(None, description="As `POST /v1/chat/completions`.")
    train: _Block = Field(None, description="A recipe and its configuration.")
    with_: dict[str, Any] | None = Field(
        None, alias="with", description="Arguments of a function or of an agent's capability."
    )
    retry: RetryForm = RetryForm()
    timeout_seconds: Seconds | None = Field(
        None, description="Of one attempt, with its wait for a machine; left out: no limit."
    )
    idempotent: StrictBool | None = Field(
        None,
        description="May be run again when nobody knows how far it came; left out: embed, decide, "
        "generate, train and HTTP's GET and HEAD may, functions and agents as they declare.",
    )
    place: Place = Field("any", description="`private` never leaves the head.")
    memory_gb: Annotated[float, Field(gt=0, le=10_000)] | None = None
    expected_seconds: Seconds | None = None


class StepForm(CallForm):
    """One step."""

    after: list[StrictStr] = Field([], description="Steps to wait for without using them.")
    when: StrictStr | StrictBool | None = Field(
        None, description="A condition; where it is false the step is skipped, its output null."
    )
    for_each: StrictStr | list[Any] | None = Field(
        None, description="A list: the step runs for each `${item}`, its output is a list."
    )
    max_parallel: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = Field(
        None, description="Items at once; left out: as many as the orchestrator runs."
    )
    on_failure: Literal["fail", "continue"] = Field(
        "fail", description="`continue`: the output is null and the workflow goes on."
    )
    compensate: CallForm | None = Field(
        None, description="Undoes the step if the workflow fails or is cancelled later."
    )


class InputForm(Request):
    """One input of a workflow."""

    required: StrictBool = False
    default: Any = None
    description: StrictStr | None = None


class WorkflowForm(Request):
    """A definition."""

    name: Name
    description: StrictStr | None = None
    inputs: dict[Name, InputForm | None] = Field({})
    deadline_seconds: Seconds | None = Field(None, description="From submission to the end.")
    priority: Priority = "normal"
    steps: Annotated[dict[Name, StepForm], Field(min_length=1, max_length=1000)]
    output: Any = Field(None, description="Left out: the output of the last step, or steps.")


class WorkflowSubmission(Request):
    """`POST /v1/workflows`."""

    definition: dict[str, Any] = Field(description="As a YAML file has it.")
    inputs: dict[str, Any] = Field({})
    key: Annotated[StrictStr, Field(min_length=1, max_length=255)] | None = Field(
        None,
        description="A submission with the same key, definition and inputs gives the workflow that "
        "there is; with others it is refused (`key_reused`).",
    )
    priority: Priority | None = Field(None, description="Instead of the definition's.")
    deadline_seconds: Seconds | None = Field(None, description="Instead of the definition's.")


class Failure(Answer):
    """Why a step or a workflow failed."""

    kind: str
    message: str
    step: str | None = None
    item: int | None = None


class StepView(Answer):
    """A step as it stands; one line for all items of a fan-out."""

    name: str
    kind: StepKind
    status: StepStatus
    attempts: int = Field(description="Of an item: the most.")
    items: int | None = Field(None, description="Of a fan-out, once it is known.")
    items_done: int | None = None
    uncertain_items: list[int] | None = Field(None, description="The first 100.")
    started_at: float | None = Field(None, description="Unix seconds.")
    finished_at: float | None = None
    node: str | None = None
    error: Failure | None = None
    compensation: StepStatus | None = None
    output: Any = Field(None, description="Present where outputs were asked for.")


class WorkflowView(Answer):
    """A workflow as it stands."""

    id: str
    name: str
    status: WorkflowStatus
    priority: Priority
    owner: str
    key: str | None = None
    created_at: float = Field(description="Unix seconds, as all times here.")
    updated_at: float
    finished_at: float | None = None
    deadline: float | None = None
    error: Failure | None = None
    output: Any = None
    steps: list[StepView] = Field([])


class WorkflowList(Answer):
    """Newest first; without steps."""

    data: list[WorkflowView]


class WorkflowEvent(Answer):
    """One committed transition."""

    seq: int
    at: float
    kind: str
    step: str | None = None
    item: int | None = None
    attempt: int | None = None
    data: dict[str, Any] = Field({})
