"""The worker's side of a function step: runs one call, and makes its result JSON.

Everything that the function does wrong comes back as data: an exception of the user's own class
might not be importable where the orchestrator runs.
"""

from __future__ import annotations

import asyncio
import inspect
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.functions import StepContext, check_arguments, find, load_modules, running_step
from actors.results import Results, check_size, has_reference, resolved, to_json
from actors.steps.kinds import step_error
from actors.workflow.shown import cut
from actors.workflow.tasks import StepError
from ironcliw.errors import IroncliwError

_SHOWN_LINES = 8
_LINE_CHARACTERS = 1_000
# Linux counts ru_maxrss in kilobytes, macOS in bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """One call of a registered function.

    Attributes:
        name: Of the function.
        inputs: Its arguments.
        context: What it may know of its step.
        modules: Where functions are registered.
        most_bytes: Its result may have so many bytes of JSON.
        what: Names the result in messages.
        results_url: The folder of results by reference, where this process reaches it.
    """

    name: str
    inputs: Mapping[str, Any]
    context: StepContext
    modules: tuple[str, ...]
    most_bytes: int
    what: str
    results_url: str


@dataclass(frozen=True, slots=True)
class FunctionAnswer:
    """What became of it: JSON, or an error.

    Attributes:
        content: The result as JSON; None where it failed.
        error: Why it failed.
        node: Id of Ray's node.
        seconds: That the function itself ran.
        peak_bytes: Most memory of the process, where this call raised it.
        cpu_seconds: Of processor time that its process has used meanwhile, without children.
    """

    content: bytes | None
    error: StepError | None
    node: str
    seconds: float
    peak_bytes: int | None
    cpu_seconds: float | None = None


def read_result(results_url: str, workflow_id: str, address: str) -> bytes:
    """The JSON of a result by reference; the body of a Ray task on the head, for calls elsewhere.

    Raises:
        IroncliwError: see `Results.read`.
    """
    return Results(results_url, 0, 0).read(workflow_id, address)


def answer_call(call: FunctionCall, started: Any = None, *contents: bytes) -> FunctionAnswer:
    """Run a call in this process; the body of the Ray task.

    Args:
        call: What to run.
        started: Handle of the control actor, told where the call runs; None: nobody is.
        contents: JSON of the results by reference in its inputs, in their order; none: they are
            read here.
    """
    node = ray.get_runtime_context().get_node_id()
    if started is not None:
        started.step_started.remote(call.context.key, call.context.attempt, node)
    before, begun, used = _peak(), time.monotonic(), time.process_time()
    content, error = None, None
    try:
        load_modules(call.modules)
        content = _run(call, contents)
    except IroncliwError as failed:
        error = step_error(failed)
    # the boundary to code of the user; SystemExit would end the worker and look like a crash
    except (Exception, SystemExit) as failed:  # noqa: BLE001  (told to the orchestrator)
        error = _told(call.name, failed)
    seconds, peak, used = time.monotonic() - begun, _peak(), time.process_time() - used
    return FunctionAnswer(content, error, node, seconds, peak if peak > before else None, used)


def _run(call: FunctionCall, contents: Sequence[bytes] = ()) -> bytes:
    found = find(call.name)
    inputs = _inputs(call, contents)
    check_arguments(call.name, inputs)
    with running_step(call.context):
        value = found.call(**inputs)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
    try:
        content = to_json(value, call.what)
        check_size(content, call.most_bytes, call.what)
    except IroncliwError as error:
        raise step_error(error).after_work() from error
    return content


def _inputs(call: FunctionCall, contents: Sequence[bytes]) -> dict[str, Any]:
    if contents:
        brought = iter(contents)
        return {name: resolved(each, lambda _: next(brought)) for name, each in call.inputs.items()}
    if not has_reference(call.inputs):
        return dict(call.inputs)
    results = Results(call.results_url, 0, 0)
    resolved_here: dict[str, Any] = results.resolve(call.context.workflow_id, call.inputs)
    return resolved_here


async def _awaited(value: Any) -> Any:
    return await value


def _told(name: str, error: BaseException) -> StepError:
    """An exception of the function's own, with the end of its traceback."""
    lines = traceback.format_exception(error)
    tail = "".join(lines).splitlines()[-_SHOWN_LINES:]
    said = f": {error}" if str(error) else ""
    first = f"{name} raised {type(error).__name__}{said}"
    # the exception's own text stands in two lines: neither may push out the place
    return StepError("error", "\n".join(cut(line, _LINE_CHARACTERS) for line in (first, *tail)))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
