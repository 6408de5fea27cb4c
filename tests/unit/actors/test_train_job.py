"""The train step: commands, jobs that outlive the orchestrator, and what they print."""

from __future__ import annotations

import asyncio
import json
import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.steps import train_job
from actors.steps.train_job import JobState, TrainJobs, job_id, last_json
from actors.workflow.tasks import CLOSING, StepError, StepTask


class FakeJobs:
    """Jobs that run for so many polls and then end as scripted."""

    def __init__(self, *endings: JobState, polls: int = 2) -> None:
        self.endings = list(endings)
        self.polls = polls
        self.commands: dict[str, list[str]] = {}
        self.left: dict[str, int] = {}
        self.ended: dict[str, JobState] = {}
        self.stopped: list[str] = []
        self.printed = 'Loading ...\n{\n "loss": 0.5,\n "list": [\n{}\n]\n}\nbye\n'
        self.away = False
        self.asked = threading.Event()

    def state(self, job: str) -> JobState:
        if self.away:
            raise ConnectionError("refused")
        if job not in self.commands:
            return JobState.ABSENT
        if job not in self.ended:
            self.asked.set()
            self.left[job] -= 1
            if self.left[job] < 0:
                self.ended[job] = self.endings.pop(0)
        return self.ended.get(job, JobState.RUNNING)

    def submit(self, job: str, command: str) -> None:
        self.commands.setdefault(job, shlex.split(command))
        self.left[job] = self.polls

    def stop(self, job: str) -> None:
        self.stopped.append(job)
        self.ended[job] = JobState.FAILED

    def output(self, job: str) -> str:
        return self.printed


def task(**inputs: Any) -> StepTask:
    return StepTask("w", "s", None, 1, "train", "", inputs, "w/s")


def run(jobs: FakeJobs, folder: Path, **inputs: Any) -> Any:
    train = TrainJobs(jobs, folder, poll_seconds=0.001)
    done = asyncio.run(train.run(task(**inputs), "local", lambda node: None))
    return json.loads(done.content)


def test_a_command_and_what_it_prints(tmp_path: Path) -> None:
    jobs = FakeJobs(JobState.SUCCEEDED)
    inputs = {"recipe": "sft", "config": "a b.yaml", "set": {"lora_rank": 8, "data.train": ["x"]}}
    value = run(jobs, tmp_path, **inputs, arguments=["--name", "mine"])
    [(job, command)] = jobs.commands.items()
    assert command == [
        *("python", "-m", "train", "sft", "--config", "a b.yaml", "--set", "lora_rank=8"),
        *("--set", 'data.train=["x"]', "--name", "mine", "--json"),
    ]
    assert value == {"job": job, "result": {"loss": 0.5, "list": [{}]}}
    assert job == job_id("w/s") + "-1"


def test_a_configuration_of_the_definition_is_written_to_a_file(tmp_path: Path) -> None:
    jobs = FakeJobs(JobState.SUCCEEDED)
    run(jobs, tmp_path / "new", recipe="sft", config={"model_name": "m"})
    [command] = jobs.commands.values()
    path = Path(command[command.index("--config") + 1])
    assert json.loads(path.read_text()) == {"model_name": "m"}
    assert path.parent == tmp_path / "new"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("publish", ["run", "name"]),
        ("merge", ["run", "--to", "folder", "--precision=bf16"]),
        ("head", ["--data", "a", "--data", "b", "--to", "here"]),
    ],
)
def test_arguments_of_a_recipe(tmp_path: Path, recipe: str, words: list[str]) -> None:
    jobs = FakeJobs(JobState.SUCCEEDED)
    run(jobs, tmp_path, recipe=recipe, arguments=words)
    [command] = jobs.commands.values()
    assert command == ["python", "-m", "train", recipe, *words, "--json"]


def test_a_step_that_starts_again_finds_the_job_that_runs(tmp_path: Path) -> None:
    jobs = FakeJobs(JobState.SUCCEEDED, polls=5)
    jobs.submit(job_id("w/s") + "-1", "python -m train by-the-one-before")
    run(jobs, tmp_path, recipe="merge")
    assert len(jobs.commands) == 1
    jobs.printed = "[1]"
    assert run(jobs, tmp_path, recipe="merge")["result"] == [1], "one that has succeeded, too"
    assert len(jobs.commands) == 1


def test_a_job_that_failed_is_followed_by_the_next(tmp_path: Path) -> None:
    jobs = FakeJobs(JobState.FAILED, JobState.SUCCEEDED)
    jobs.printed = "CUDA is away\n"
    with pytest.raises(StepError, match=r"-1 failed; it printed last:\nCUDA is away") as caught:
        run(jobs, tmp_path, recipe="merge")
    assert caught.value.retryable
    assert run(jobs, tmp_path, recipe="merge")["job"].endswith("-2")


def test_a_cancelled_step_stops_its_job(tmp_path: Path) -> None:
    jobs = FakeJobs(polls=10**6)

    async def cancel() -> None:
        train = TrainJobs(jobs, tmp_path, poll_seconds=0.001)
        running = asyncio.create_task(train.run(task(recipe="merge"), "local", lambda node: None))
        await asyncio.to_thread(jobs.asked.wait, 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel())
    assert jobs.stopped == list(jobs.commands)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"recipe": "sft", "config": "a.yaml"}, "place is private, and sft may train in the cloud"),
        ({"recipe": "sft", "config": {"placement": "auto"}}, "may train in the cloud"),
        ({"recipe": "head", "arguments": ["--teacher", "m"]}, "a teacher may be served in the"),
        ({"recipe": "sft", "config": "a.yaml", "set": {"placement": "local"}}, None),
        ({"recipe": "dpo", "config": {"placement": "local"}}, None),
        ({"recipe": "merge", "arguments": ["run"]}, None),
    ],
)
@pytest.mark.parametrize("has_cloud", [True, False])
def test_a_private_step_trains_at_home(
    tmp_path: Path, inputs: dict[str, Any], why: str | None, has_cloud: bool
) -> None:
    jobs = FakeJobs(JobState.SUCCEEDED)
    train = TrainJobs(jobs, tmp_path, 0.001, has_cloud=has_cloud)
    private = replace(task(**inputs), place="private")
    if why is not None and has_cloud:
        with pytest.raises(StepError, match=why) as caught:
            asyncio.run(train.run(private, "local", lambda node: None))
        assert not caught.value.retryable
    else:
        asyncio.run(train.run(private, "local", lambda node: None))
    assert len(jobs.commands) == (0 if why is not None and has_cloud else 1)


def test_a_job_that_is_only_being_started_is_stopped_too(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(FakeJobs):
        def submit(self, job: str, command: str) -> None:
            begun.set()
            go.wait(60)
            super().submit(job, command)

    jobs = Slow(polls=10**6)

    async def cancel() -> None:
        train = TrainJobs(jobs, tmp_path, poll_seconds=0.001)
        running = asyncio.create_task(train.run(task(recipe="merge"), "local", lambda node: None))
        await asyncio.to_thread(begun.wait, 5)
        running.cancel("turned")
        await asyncio.sleep(0.01)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel())
    assert list(jobs.commands) == jobs.stopped != []


def test_a_job_outlives_the_orchestrator(tmp_path: Path) -> None:
    jobs = FakeJobs(polls=10**6)

    async def close() -> None:
        train = TrainJobs(jobs, tmp_path, poll_seconds=0.001)
        running = asyncio.create_task(train.run(task(recipe="merge"), "local", lambda node: None))
        await asyncio.to_thread(jobs.asked.wait, 5)
        running.cancel(CLOSING)
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(close())
    assert jobs.stopped == []


def test_the_next_orchestrator_stops_a_job(tmp_path: Path) -> None:
    jobs = FakeJobs(polls=10**6)
    train = TrainJobs(jobs, tmp_path, poll_seconds=0.001)
    asyncio.run(train.end(task(recipe="merge")))
    assert jobs.stopped == [], "there is none"
    first, second = (f"{job_id('w/s')}-{number}" for number in (1, 2))
    jobs.submit(first, "python")
    jobs.ended[first] = JobState.FAILED
    jobs.submit(second, "python")
    asyncio.run(train.end(task(recipe="merge")))
    assert jobs.stopped == [second]


def test_a_job_that_does_not_stop_may_still_be_at_it(tmp_path: Path) -> None:
    class Stubborn(FakeJobs):
        def stop(self, job: str) -> None:
            self.stopped.append(job)

    jobs = Stubborn(polls=10**6)
    jobs.submit(f"{job_id('w/s')}-1", "python")
    with pytest.raises(StepError, match="was told to stop and still runs") as caught:
        asyncio.run(TrainJobs(jobs, tmp_path).end(task(recipe="merge")))
    assert caught.value.failure == "unstopped"


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_job_service_that_is_away_when_a_job_is_to_be_stopped(
    tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_job, "_ANSWER_SECONDS", seconds)
    jobs = FakeJobs(polls=10**6)
    jobs.submit(f"{job_id('w/s')}-1", "python")
    jobs.away = True
    back = threading.Timer(0.1, lambda: setattr(jobs, "away", False))
    if seconds:
        back.start()
        asyncio.run(TrainJobs(jobs, tmp_path, 0.001).end(task(recipe="merge")))
        assert len(jobs.stopped) == 1
    else:
        with pytest.raises(StepError, match="job service does not answer: refused") as caught:
            asyncio.run(TrainJobs(jobs, tmp_path, 0.001).end(task(recipe="merge")))
        assert caught.value.failure == "unstopped"


def test_nobody_answers(tmp_path: Path) -> None:
    jobs = FakeJobs()
    jobs.away = True
    with pytest.raises(StepError, match="job service does not answer: refused") as caught:
        run(jobs, tmp_path, recipe="merge")
    assert caught.value.failure == "lost"


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"recipe": "sfd"}, r"train\.recipe: Input should be 'sft'"),
        ({"recipe": "sft"}, "sft needs a file or a mapping"),
        ({"recipe": "merge", "set": {"a b": 1}}, "'a b' is no key"),
        ({"recipe": "merge", "argument": []}, r"train\.argument: .*did you mean 'arguments'"),
        *(
            ({"recipe": recipe, "arguments": words.split()}, why)
            for recipe, words, why in (
                ("publish", "run name --hub owner/x --public", "cannot have '--hub' .*: none"),
                ("publish", "run --public", "cannot have '--public'"),
                ("publish", "run name more", "cannot have 'more' .*2 words"),
                ("export", "run --to here --force", "cannot have '--force' .*--quantization, --to"),
                ("merge", "run --to --force", "cannot have '--force' .--to needs a value"),
                ("merge", "run --to", "cannot have '' .--to needs a value"),
                ("head", "--publish=a --force=1", "cannot have '--force=1'"),
            )
        ),
    ],
)
def test_a_block_that_is_wrong(tmp_path: Path, inputs: dict[str, Any], why: str) -> None:
    jobs = FakeJobs()
    with pytest.raises(StepError, match=why) as caught:
        run(jobs, tmp_path, **inputs)
    assert not caught.value.retryable
    assert jobs.commands == {}


@pytest.mark.parametrize(
    ("output", "found"),
    [("", None), ("{not json}\n", None), ("a {1}\n", None), ('{"a": 1}\n{"b": 2}\nx', {"b": 2})],
)
def test_the_last_document(output: str, found: Any) -> None:
    assert last_json(output) == found
