"""Function steps: each attempt is a Ray task in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from actors.functions import StepContext, find
from actors.results import addresses_in
from actors.routing import LOCAL, SPOT
from actors.step_memory import STEP
from actors.steps.kinds import Done, result_of, step_error
from actors.steps.worker import FunctionAnswer, FunctionCall, answer_call, read_result
from actors.workflow.tasks import StepError, StepTask
from cluster.config import GROUP_LABEL, SPOT_TYPE
from ironcliw.actor_settings import ActorsSettings
from ironcliw.errors import NotFoundError

logger = logging.getLogger(__name__)

_CANCEL_SECONDS = 10.0
_BYTES_A_GB = 1_000_000_000
_NODE_LABEL = "ray.io/node-id"
# a sliver of the resource that only the head has
_ON_HEAD = {"node:__internal_head__": 0.001}


class FunctionCalls:
    """Executes function steps.

    Args:
        settings: Modules, and what a call books.
        spot_environment: Runtime environment of calls in the cloud: the code they need.
        control: Handle of the control actor, for calls whose node is not known beforehand.
        results_url: The folder of results by reference, as the head reaches it.
    """

    def __init__(
        self,
        settings: ActorsSettings,
        spot_environment: Mapping[str, Any] | None = None,
        control: Any = None,
        results_url: str = "",
    ) -> None:
        self._settings = settings
        self._results_url = results_url
        self._spot_environment = dict(spot_environment or {})
        self._control = control
        self._task = ray.remote(max_retries=0)(answer_call)
        # it may run as often as it takes; the results do not change
        self._read = ray.remote(num_cpus=0, resources=_ON_HEAD)(read_result)

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        """See `actors.steps.kinds.KindExecutor`."""
        options = self._options(task, place)
        call = FunctionCall(
            task.target,
            task.inputs,
            _context(task),
            self._settings.modules,
            self._settings.result_bytes,
            result_of(task),
            self._results_url,
        )
        control = self._control if place == SPOT else None
        contents = self._brought(task) if place == SPOT else []
        reference = self._task.options(**options).remote(call, control, *contents)
        try:
            answer: FunctionAnswer = await reference
        except asyncio.CancelledError:
            await _stop(reference)
            raise
        except RayError as error:
            raise self._failed(task, error) from error
        started(answer.node)
        if answer.error is not None:
            raise answer.error
        assert answer.content is not None
        return Done(
            answer.content,
            answer.node,
            place,
            answer.seconds,
            answer.peak_bytes,
            answer.cpu_seconds,
        )

    def _brought(self, task: StepTask) -> list[Any]:
        """Results that the call is handed by reference, read on the head: Ray carries them."""
        return [
            self._read.remote(self._results_url, task.workflow_id, address)
            for address in addresses_in(task.inputs)
        ]

    def _options(self, task: StepTask, place: str) -> dict[str, Any]:
        try:
            cpus = find(task.target).cpus
        except NotFoundError as error:
            raise step_error(error) from error
        options: dict[str, Any] = {
            "num_cpus": self._settings.function_cpus if cpus is None else cpus,
            "name": f"{STEP}{task.target}",
        }
        if task.memory_gb is not None:
            options["memory"] = int(task.memory_gb * _BYTES_A_GB)
        if place == LOCAL:
            options["resources"] = _ON_HEAD
        else:
            options["label_selector"] = {GROUP_LABEL: SPOT_TYPE}
            if task.node:
                # a wish: should that machine go, any other will do
                options["fallback_strategy"] = [{"label_selector": options["label_selector"]}]
                options["label_selector"] = {GROUP_LABEL: SPOT_TYPE, _NODE_LABEL: task.node}
            options["runtime_env"] = self._spot_environment
        return options

    @staticmethod
    def _failed(task: StepTask, error: RayError) -> StepError:
        """Why Ray has no answer."""
        if isinstance(error, RuntimeEnvSetupError | TaskUnschedulableError):
            return StepError("refused", f"no worker could start {task.target}: {_first(error)}")
        if isinstance(error, TaskCancelledError):
            return StepError("lost", f"the call of {task.target} was cancelled from outside")
        if isinstance(error, OutOfMemoryError):
            return StepError(
                "lost",
                f"the process of {task.target} was ended because the machine ran out of memory; "
                "state memory_gb, or give it less to do at a time",
            )
        if isinstance(error, WorkerCrashedError):
            return StepError(
                "lost", f"the process of {task.target} died: killed, or a crash in native code"
            )
        if isinstance(error, NodeDiedError | ObjectLostError):
            return StepError("lost", f"the machine of {task.target} is gone: {_first(error)}")
        if isinstance(error, RayTaskError):
            # the call itself tells what goes wrong in it, so this is about the way there
            return StepError("error", f"{task.target} could not be called: {_last(error)}")
        return StepError("lost", f"{task.target}: {type(error).__name__}: {_first(error)}")


def _context(task: StepTask) -> StepContext:
    ends = [] if task.timeout_seconds is None else [time.time() + task.timeout_seconds]
    ends += [] if task.deadline is None else [task.deadline]
    return StepContext(
        task.workflow_id, task.step, task.item, task.attempt, task.key, min(ends, default=None)
    )


async def _stop(reference: Any) -> None:
    """End the process of a call, and wait until it is gone."""
    ray.cancel(reference, force=True)
    ended = asyncio.wrap_future(reference.future())
    with contextlib.suppress(RayError):
        try:
            await asyncio.wait_for(ended, _CANCEL_SECONDS)
        except TimeoutError:
            logger.warning("a cancelled step still runs after %g s", _CANCEL_SECONDS)


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _last(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2][:300]
