"""A run of training on a Ray of its own, and what happens to it: `python -m
benchmarks.training_cluster PLAN`.

The head runs no workers; each node is a raylet with its processes, which carry a tag in their
environment so that a machine can be lost as a whole. The process prints one line of JSON: what was
done to the run, each step that was reported, and lines of Ray Train's and the workers' logs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import BenchmarkError, Options
from benchmarks.machine import ROOT
from benchmarks.processes import TAG, kill_members, members, wait_until
from benchmarks.training_story import Blow, Done, Plan, Reported, Story, log_lines
from benchmarks.training_work import ROWS
from cluster.handover import Handover
from cluster.testing.ports import free_ports
from cluster.vm.agent import DONE_FOLDER, HOOKS_FOLDER, NOTICE_FILE
from cluster.vm.facts import is_running, write_atomically
from cluster.vm.startup import PULL_TIMEOUT
from ironcliw.settings import export_environment, load_settings, process_environment

_LONGEST_SECONDS = 900.0
_START_SECONDS = 120.0
_LOOK_SECONDS = 0.01


def play(options: Options, plan: Plan) -> Story:
    """Carry a plan out in a process of its own.

    Raises:
        BenchmarkError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_cluster", json.dumps(dataclasses.asdict(plan))],
        cwd=ROOT,
        env=options.child_environment(),
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"the run on a cluster failed:\n{done.stderr.strip()[-3000:]}")
    return Story.of(done.stdout.splitlines()[-1])


class _Striker:
    """Hears of each step, and strikes in a thread of its own."""

    def __init__(self, plan: Plan, handover: Path, tags: Sequence[str]) -> None:
        self._waiting = list(plan.blows)
        self._handover = handover
        self._tags = tags
        self._random = random.Random(plan.seed)
        self._threads: list[threading.Thread] = []
        self.done: list[Done] = []
        self.reports: list[Reported] = []

    def report(self, step: Any) -> None:
        self.reports.append(Reported(step.step, time.time(), step.seconds))
        if self._waiting and step.step >= self._waiting[0].after:
            blow = self._waiting.pop(0)
            pause = self._random.random() * step.seconds
            thread = threading.Thread(target=self._strike, args=(blow, pause))
            self._threads.append(thread)
            thread.start()

    def finish(self) -> None:
        for thread in self._threads:
            thread.join()
        if self._waiting:
            raise BenchmarkError(f"the run was over before {self._waiting[0]}")

    def _strike(self, blow: Blow, pause: float) -> None:
        time.sleep(pause)
        saved_at = None
        at = time.time()
        if blow.kind == "notice":
            saved_at = self._tell(at)
        elif blow.kind == "kill worker":
            pid = _workers(self._tags)[0][1]
            at = time.time()
            os.kill(pid, signal.SIGKILL)
        else:
            tag = _workers(self._tags)[0][0]
            at = time.time()
            kill_members(tag)
        self.done.append(Done(blow.kind, at, self.reports[-1].step, saved_at))

    def _tell(self, at: float) -> float:
        """Write a notice as a machine's agent does; returns when all have answered."""
        told = {"at": at, "deadline": at + 30, "reason": "preempted"}
        hooks, done = (self._handover / kind for kind in (HOOKS_FOLDER, DONE_FOLDER))
        # a worker that was killed leaves its hook behind
        names = {path.name for path in hooks.iterdir() if is_running(int(path.read_text()))}
        write_atomically(self._handover / NOTICE_FILE, json.dumps(told))
        answered = wait_until(
            lambda: names <= {path.name for path in done.iterdir()}, 60, _LOOK_SECONDS
        )
        saved_at = time.time()
        # the machine is gone, and the next one knows of nothing
        (self._handover / NOTICE_FILE).unlink()
        for name in names:
            Handover(self._handover).unregister(name)
        if not names or not answered:
            raise BenchmarkError(f"a notice was not answered by {names or 'anybody'}")
        return saved_at


def _workers(tags: Sequence[str]) -> list[tuple[str, int]]:
    """Tag of the node and process id of each worker of Ray Train."""
    found = []
    for tag in tags:
        for pid in members(tag):
            # Ray writes the class of an actor into its process's title
            try:
                title = " ".join(psutil.Process(pid).cmdline())
            except psutil.NoSuchProcess:
                continue
            if "RayTrainWorker" in title:
                found.append((tag, pid))
    if not found:
        raise BenchmarkError("the run has no worker to strike")
    return found


@contextmanager
def _cluster(nodes: int, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A head without workers and some nodes; yields its address and the nodes' tags."""
    [port] = free_ports(1)
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        _start(
            stack,
            f"{folder.name}-head",
            [
                *("--head", f"--port={port}", "--num-cpus=0"),
                *("--include-dashboard=false", f"--temp-dir={folder}"),
            ],
        )
        tags = [f"{folder.name}-{number}" for number in range(nodes)]
        for tag in tags:
            _start(stack, tag, [f"--address={address}", f"--num-cpus={os.cpu_count() or 1}"])
        yield address, tags


def _start(stack: ExitStack, tag: str, words: list[str]) -> None:
    """A raylet; all that it starts carries the tag, and is killed in the end."""
    stack.callback(kill_members, tag)
    program = str(Path(sys.executable).with_name("ray"))
    done = subprocess.run(
        [
            *(program, "start", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
            # each node's agent has a fixed one, and the second would wait for it
            f"--dashboard-agent-listen-port={free_ports(1)[0]}",
            *words,
        ],
        # as a cluster of ours has it
        env=process_environment(**{TAG: tag}, **PULL_TIMEOUT),
        capture_output=True,
        text=True,
        timeout=_START_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"ray start {' '.join(words)}:\n{done.stdout}{done.stderr}")


def main(arguments: Sequence[str]) -> None:
    """The process's entry: `PLAN`."""
    plan = Plan.of(arguments[0])
    # short: it becomes part of a socket's path
    folder = Path(tempfile.mkdtemp(prefix="icwb-", dir="/tmp"))
    handover = folder / "handover"
    for kind in (HOOKS_FOLDER, DONE_FOLDER):  # the agent of a machine makes them
        (handover / kind).mkdir(parents=True)
    # Ray asks for a token by itself where the user has one; this cluster has its own
    export_environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    try:
        with _cluster(plan.nodes, folder) as (address, tags):
            export_environment({"RAY_ADDRESS": address})
            striker = _Striker(plan, handover, tags)
            _train(plan, folder, handover, striker)
            striker.finish()
            logs = next(folder.glob("session_2*")) / "logs" / "train"
            story = Story(tuple(striker.done), tuple(striker.reports), tuple(log_lines(logs)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(dataclasses.asdict(story)) + "\n")


def _train(plan: Plan, folder: Path, handover: Path, striker: _Striker) -> None:
    import ray

    from train.config import make_config
    from train.trainer import Trainer

    settings = load_settings().model_copy(update={"handover_dir": handover})
    given = {
        "name": "struck",
        "model_name": plan.model,
        "batch_size": plan.batch_size,
        "micro_batch_tokens": plan.micro_batch_tokens,
        "max_steps": plan.steps,
        "workers": plan.workers,
        "shards": plan.workers,
        "allow_local": True,
        "placement": "local",
        "checkpoint": {"every": plan.every, "storage": str(folder / "run")},
        "data": {
            "columns": {"prompt": "question", "completion": "answer"},
            "plain_text": True,
        },
    }
    trainer = Trainer(make_config(given, "the benchmark's run"), settings, striker.report)
    trainer.train(str(Path(plan.data) / ROWS))
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
