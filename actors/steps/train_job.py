"""The train step: a command of `python -m train`, as a Ray job that outlives the orchestrator.

    train: {recipe: sft, config: train/configs/sft.yaml, set: {lora_rank: 8}, arguments: [...]}

runs `python -m train sft --config ... --set lora_rank=8 --json` and gives what it prints as JSON.
`config` may hold the configuration itself, which is then written to a file of the step's own. The
job's id is made from the step's key, so a step that is started again finds the job that runs and
waits for it; a job that failed is followed by one with the next number. A step that is cancelled
stops its job, but not where the orchestrator ends: the next one waits for it. A run that is
submitted again goes on from its last checkpoint, as `train` promises.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, StrictStr

from actors.routing import LOCAL
from actors.steps.kinds import Done, parse_block
from actors.steps.train_words import check_words
from actors.workflow.tasks import CLOSING, StepError, StepTask
from ironcliw.errors import IroncliwError
from ironcliw.schemas.base import Request

_POLL_SECONDS = 1.0
_TAIL_BYTES = 2000
_ANSWER_SECONDS = 60.0
_NO_ANSWER = "Ray's job service does not answer"
_CONFIGURED = frozenset({"sft", "dpo", "embed", "eval", "tune"})
_TRAINING = frozenset({"sft", "dpo", "embed", "tune"})
_OPTION = re.compile(r"[A-Za-z0-9_.-]+")


class TrainForm(Request):
    """The block of a train step."""

    recipe: Literal["sft", "dpo", "embed", "head", "tune", "eval", "merge", "export", "publish"]
    config: StrictStr | dict[str, Any] | None = None
    set: dict[StrictStr, Any] = Field({})
    arguments: list[StrictStr] = Field([])


class JobState(StrEnum):
    """Where a job stands, as far as a step cares."""

    ABSENT = "absent"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Jobs(Protocol):
    """Ray's jobs; every method blocks, and raises ConnectionError where nobody answers."""

    def state(self, job: str) -> JobState:
        """Of one job."""
        ...

    def submit(self, job: str, command: str) -> None:
        """Start one; harmless where it exists."""
        ...

    def stop(self, job: str) -> None:
        """End one and wait until it has ended, but not for ever."""
        ...

    def output(self, job: str) -> str:
        """What it printed."""
        ...


class TrainJobs:
    """Executes train steps.

    Args:
        jobs: Of the head.
        folder: Where configurations are written that a definition holds itself.
        poll_seconds: How often a job is asked for.
        has_cloud: Whether training may find its place in the cloud.
    """

    def __init__(
        self,
        jobs: Jobs,
        folder: Path,
        poll_seconds: float = _POLL_SECONDS,
        *,
        has_cloud: bool = False,
    ) -> None:
        self._jobs = jobs
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._has_cloud = has_cloud

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        """See `actors.steps.kinds.KindExecutor`; training finds its own place."""
        form = parse_block(TrainForm, task)
        if task.place == "private" and self._has_cloud:
            _keep_home(form)
        beginning = asyncio.create_task(asyncio.to_thread(self._begin, task, form))
        # where nobody waits for it any more, nobody need hear of its error
        beginning.add_done_callback(lambda begun: begun.cancelled() or begun.exception())
        try:
            try:
                # a thread goes on whatever becomes of us, and may start the job yet
                job = await asyncio.shield(beginning)
                await self._wait(job)
            except asyncio.CancelledError as cancelled:
                if CLOSING not in cancelled.args:
                    await self._stop(beginning)
                raise
            output = await asyncio.to_thread(self._jobs.output, job)
        except ConnectionError as error:
            raise StepError("lost", f"{_NO_ANSWER}: {error}") from error
        return Done.of({"job": job, "result": last_json(output)}, task, place=LOCAL)

    async def _stop(self, beginning: asyncio.Task[str]) -> None:
        """End the job, also one that is only being started."""
        try:
            job = await beginning
        except IroncliwError:
            return  # there is none
        try:
            await asyncio.to_thread(self._end, job)
        except ConnectionError as error:
            raise StepError("unstopped", f"{_NO_ANSWER}: {error}") from error

    def _end(self, job: str) -> None:
        self._jobs.stop(job)
        if self._jobs.state(job) is JobState.RUNNING:
            raise StepError("unstopped", f"job {job} was told to stop and still runs")

    async def end(self, task: StepTask) -> None:
        """See `actors.steps.kinds.Lasting`: a job goes on without its orchestrator."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                await asyncio.to_thread(self._end_last, job_id(task.key))
                return
            except ConnectionError as error:  # a head that was just started is not all there yet
                if time.monotonic() > deadline:
                    raise StepError("unstopped", f"{_NO_ANSWER}: {error}") from error
            await asyncio.sleep(self._poll_seconds)

    def _end_last(self, base: str) -> None:
        job, state = self._last(base)
        if state is JobState.RUNNING:
            self._end(job)

    def _begin(self, task: StepTask, form: TrainForm) -> str:
        """The job that runs or has succeeded; a new one where there is none."""
        job, state = self._last(job_id(task.key))
        if state is JobState.ABSENT:
            self._jobs.submit(job, self._command(task, form))
        return job

    def _last(self, base: str) -> tuple[str, JobState]:
        """The first of a step's jobs that has not failed, and where it stands."""
        number = 1
        while (state := self._jobs.state(job := f"{base}-{number}")) is JobState.FAILED:
            number += 1
        return job, state

    async def _wait(self, job: str) -> None:
        # Ray has no event for the end of a job
        while (state := await asyncio.to_thread(self._jobs.state, job)) is JobState.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(self._poll_seconds)
        if state is JobState.ABSENT:
            raise StepError("lost", f"job {job} is gone: was the head restarted?")
        if state is JobState.FAILED:
            output = await asyncio.to_thread(self._jobs.output, job)
            raise StepError("error", f"job {job} failed; it printed last:\n{output[-_TAIL_BYTES:]}")

    def _command(self, task: StepTask, form: TrainForm) -> str:
        words = ["python", "-m", "train", form.recipe]
        if isinstance(form.config, str):
            words += ["--config", form.config]
        elif form.config is not None:
            words += ["--config", str(self._written(task, form.config))]
        elif form.recipe in _CONFIGURED:
            raise StepError(
                "invalid", f"train.config: {form.recipe} needs a file or a mapping", retryable=False
            )
        for name, value in form.set.items():
            if not _OPTION.fullmatch(name):
                raise StepError(
                    "invalid", f"train.set: {name!r} is no key such as data.max_length", False
                )
            words += ["--set", f"{name}={_text(value)}"]
        check_words(form.recipe, form.arguments)
        return shlex.join([*words, *form.arguments, "--json"])

    def _written(self, task: StepTask, config: Mapping[str, Any]) -> Path:
        # JSON is YAML; the name is the step's own, so an attempt after a crash writes the same file
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{job_id(task.key)}.yaml"
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        return path


def _keep_home(form: TrainForm) -> None:
    """Refuse a private step whose work may be done in the cloud.

    Raises:
        StepError: it may.
    """
    if form.recipe in _TRAINING:
        written = form.config if isinstance(form.config, dict) else {}
        if form.set.get("placement", written.get("placement")) != "local":
            raise StepError(
                "invalid",
                f"the step's place is private, and {form.recipe} may train in the cloud; add "
                "`set: {placement: local}`",
                retryable=False,
            )
    if any(word.partition("=")[0] == "--teacher" for word in form.arguments):
        raise StepError(
            "invalid",
            "the step's place is private, and a teacher may be served in the cloud; label the rows "
            "beforehand, or give the step another place",
            retryable=False,
        )


def job_id(key: str) -> str:
    """A submission id of Ray's: the same for every attempt of a step."""
    return f"workflow-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def last_json(output: str) -> Any:
    """The JSON document that a program printed last, begun at the start of a line.

    None where there is none; lines of a log may stand before it and after it.
    """
    decoder, found, end = json.JSONDecoder(), None, 0
    for start in (match.start() for match in re.finditer(r"^[{\[]", output, re.MULTILINE)):
        if start < end:
            continue  # inside the one before
        try:
            found, end = decoder.raw_decode(output, start)
        except ValueError:
            continue
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
