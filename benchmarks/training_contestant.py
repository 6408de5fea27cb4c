"""A contestant of theme `train` in a process of its own: `python -m benchmarks.training_contestant
CONTESTANT WORK`.

It prints one line of JSON: when each optimizer step was done, its loss, and the largest resident
size of the process and its children.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import BenchmarkError, NotRun, Options
from benchmarks.machine import ROOT
from benchmarks.processes import descendants, parents
from benchmarks.training_work import Work
from train.environment import run_environment

OURS, PLAIN = "ironcliw", "transformers Trainer"
TRL, TUNED = "TRL 1.16", "TRL 1.16 tuned"
TRAINERS = {
    OURS: "benchmarks.peers.our_training:train",
    TRL: "benchmarks.peers.trl_training:train_default",
    TUNED: "benchmarks.peers.trl_training:train_tuned",
    PLAIN: "benchmarks.peers.plain_training:train",
}
PRECOMPUTED = f"{OURS}, reference precomputed"
TRL_PRECOMPUTED = f"{TRL}, reference precomputed"
PREFERENCE_TRAINERS = {
    OURS: TRAINERS[OURS],
    PRECOMPUTED: TRAINERS[OURS],
    TRL: "benchmarks.peers.trl_preferences:train_default",
    TRL_PRECOMPUTED: "benchmarks.peers.trl_preferences:train_default",
}
"""Whether the reference is precomputed is in the work."""
_LONGEST_SECONDS = 1800.0


@dataclass
class Recorder:
    """Takes note of each optimizer step.

    Attributes:
        folder: For whatever a trainer writes.
        done: When each step was done, in seconds of `time.perf_counter`.
        cpu: Processor time of the process until then, in seconds.
        losses: Mean over the supervised tokens of each step's batch.
        own: Seconds that each step took by itself; where the trainer tells.
        margins: Of pairs, the mean of how much more the chosen answer is worth; where it is told.
    """

    folder: Path
    done: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def step(self, loss: float, own: float = math.nan, margin: float = math.nan) -> None:
        """A step is done."""
        self.done.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.losses.append(loss)
        self.own.append(own)
        self.margins.append(margin)


Train = Callable[[Work, Recorder], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a contestant's process took.

    Attributes:
        seconds: Of each step but the first, from the end of the one before.
        cpu_seconds: Processor time of the same steps.
        losses: Of each step.
        peak_bytes: Largest resident size.
        own_seconds: Of each step without what lies between steps; NaN where it is not known.
        margins: Of each step's pairs, in rewards; NaN where there are none.
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    losses: tuple[float, ...]
    peak_bytes: int
    own_seconds: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()

    def rate(self, counts: Sequence[int], warmup: int) -> float:
        """How many of something a second, after the first steps.

        Args:
            counts: Of each step, the first included.
            warmup: Steps that are not counted, at least the first.
        """
        assert 1 <= warmup < len(counts) == len(self.seconds) + 1
        return sum(counts[warmup:]) / sum(self.seconds[warmup - 1 :])

    def cpu_cost(self, counts: Sequence[int], warmup: int) -> float:
        """Processor seconds of a thousand of something; arguments as those of `rate`."""
        return 1000 * sum(self.cpu_seconds[warmup - 1 :]) / sum(counts[warmup:])


def measure(options: Options, contestant: str, work: Work, trainer: str = "") -> Measured | NotRun:
    """Run a contestant in a process of its own.

    Args:
        options: Of the theme.
        contestant: For messages, and its trainer's name in `TRAINERS`.
        work: What it computes.
        trainer: Dotted `module:function` in place of that of `TRAINERS`.

    Returns:
        NotRun where it is not installed.

    Raises:
        BenchmarkError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-train-") as folder:
        command = [sys.executable, "-m", "benchmarks.training_contestant"]
        done = subprocess.run(
            [*command, trainer or TRAINERS[contestant], work.text(), folder],
            cwd=ROOT,
            env=_environment(options, contestant),
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    if done.returncode:
        raise BenchmarkError(
            f"{contestant} ({work.precision}) failed:\n{done.stderr.strip()[-1500:]}"
        )
    found: dict[str, Any] = json.loads(done.stdout)
    if "missing" in found:
        return NotRun(str(found["missing"]))
    return parse(found)


def _environment(options: Options, contestant: str) -> dict[str, str]:
    """As each trainer has it: ours sets variables for its workers."""
    environment = options.child_environment()
    return environment | (run_environment(environment) if contestant.startswith(OURS) else {})


def parse(found: dict[str, Any]) -> Measured:
    """What a contestant printed."""
    seconds, cpu = (
        tuple(end - begun for begun, end in itertools.pairwise(found[key]))
        for key in ("done", "cpu")
    )
    losses, own, margins = (tuple(found[key]) for key in ("losses", "own", "margins"))
    return Measured(seconds, cpu, losses, int(found["peak_bytes"]), own, margins)


def peak_bytes(proc: Path = Path("/proc")) -> int:
    """Largest resident sizes of this process and what it has started, added. Linux only."""
    total = 0
    for pid in descendants([os.getpid()], parents(proc)):
        status = (proc / str(pid) / "status").read_text(encoding="ascii", errors="replace")
        total += int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return total


def main(arguments: Sequence[str]) -> None:
    """The process's entry: `TRAINER WORK FOLDER`."""
    trainer, text, folder = arguments
    work = Work.of(text)
    # whatever a library prints must not get between
    line = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(work.threads)
    recorder = Recorder(Path(folder))
    module, _, function = trainer.partition(":")
    try:
        train: Train = getattr(importlib.import_module(module), function)
        train(work, recorder)
    except ModuleNotFoundError as error:
        line.write(json.dumps({"missing": f"{error.name} is not installed; `make bench-peers`"}))
        line.close()
        return
    if len(recorder.done) != work.steps:
        raise BenchmarkError(f"{trainer} did {len(recorder.done)} of {work.steps} steps")
    found = {
        "done": recorder.done,
        "cpu": recorder.cpu,
        "losses": recorder.losses,
        "own": recorder.own,
        "margins": recorder.margins,
        "peak_bytes": peak_bytes(),
    }
    line.write(json.dumps(found))
    line.close()


if __name__ == "__main__":
    main(sys.argv[1:])
