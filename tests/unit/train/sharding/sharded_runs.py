"""Runs of a model in pieces, each worker a process; called by its test as a program of its own.

    python -m tests.unit.train.sharding.sharded_runs FOLDER NAME

It prints what became of them as JSON. A process that has computed nothing forks the workers: so
torch is imported once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import resume_runs as runs
from benchmarks.harness import BenchmarkError
from train.job import Job
from train.run_files import CHECKPOINTS, LOG

FSDP = {"sharding": {"mode": "fsdp"}, "shards": 3, "batch_size": 6, "max_steps": 5}
LORA = {**FSDP, "lora_dropout": 0.1}
ALL = {**FSDP, "use_lora": False}
KEPT = {**ALL, "preference": {"reference": "precomputed"}}


class Runs:
    """Runs of one model below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = runs.make_model(folder / "model")
        self._count = 0

    def job(self, given: dict[str, Any], workers: int, storage: Path | None = None) -> Job:
        """A new run, or one that another begun."""
        self._count += 1
        changes: dict[str, Any] = {**given, "workers": workers}
        job = runs.make_job(self._folder / str(self._count), self._model, changes)
        if storage is None:
            return job
        return Job(job.config, job.settings, str(storage), job.train, job.held_out, job.threads)

    def whole(self, given: dict[str, Any], workers: int) -> str:
        """The hash of an undisturbed run's weights and log, or what its workers said."""
        return self.end(self.job(given, workers))

    def end(self, job: Job) -> str:
        """Run an attempt to its end."""
        try:
            return runs.result(job) if runs.attempt(job) == 0 else self.told(job)
        except BenchmarkError:
            return self.told(job)

    def losses(self, given: dict[str, Any], workers: int) -> list[float]:
        """Of each step of an undisturbed run."""
        job = self.job(given, workers)
        assert runs.attempt(job) == 0, self.told(job)
        lines = [json.loads(line) for line in (Path(job.uri) / LOG).read_text().splitlines()]
        return [line["loss"] for line in lines if "event" not in line]

    def told(self, job: Job) -> str:
        """What the workers of a run have printed, and how it ended."""
        log = Path(job.uri).parent / "attempts.log"
        outcome = Path(job.uri) / "outcome.json"
        failed = outcome.read_text() if outcome.exists() else ""
        return (log.read_text() if log.exists() else "")[-4000:] + failed


def same_for_any_number(made: Runs) -> dict[str, Any]:
    """The bits of one, two and three workers; where layers stay whole, of two."""
    twice = {**LORA, "gradient_checkpointing": True}
    kept = {**ALL, "sharding": {"mode": "fsdp", "reshard_after_forward": False}}
    return {
        "LoRA": [made.whole(LORA, workers) for workers in (1, 2, 3)],
        "layers computed twice": [made.whole(twice, workers) for workers in (1, 2)],
        "all weights": [made.whole(ALL, workers) for workers in (1, 3)] + [made.whole(kept, 2)],
        "another seed": [made.whole({**LORA, "seed": 1}, 2)],
    }


def preferences(made: Runs) -> dict[str, Any]:
    """The same of runs on preferences, whose reference is the model or kept."""
    return {
        "LoRA": [made.whole({**FSDP, "preference": {}}, workers) for workers in (1, 2)],
        "all weights": [made.whole(KEPT, workers) for workers in (1, 2)],
    }


def as_the_whole(made: Runs) -> dict[str, Any]:
    """Losses of a model in pieces, and of the same one whole; rounding alone tells them apart."""
    kinds = {"LoRA": LORA, "all weights": ALL, "preferences": KEPT}
    return {
        name: [made.losses(changes, 2) for changes in (given, {**given, "sharding": {}})]
        for name, given in kinds.items()
    }


def resumes(made: Runs) -> dict[str, Any]:
    """Runs that die and go on, with as many workers or others; with uneven rows, too."""
    found: dict[str, Any] = {}
    # a reference is computed by the model as it was loaded, and then the checkpoint is put back
    kept = {**KEPT, "sharding": {"mode": "fsdp", "reshard_after_forward": False}}
    kinds = {"LoRA": LORA, "all weights": ALL, "preferences, layers kept": kept}
    for name, given in kinds.items():
        found[name] = [made.whole(given, 2)]
        for before, after in ((2, 2), (2, 3), (3, 2), (2, 1)):
            job = made.job(given, before)
            code = runs.attempt(job, point="root-fsynced", visit=2)
            again = made.job(given, after, Path(job.uri))
            found[name].append(made.end(again) if code else "it was not killed")
    return found


def troubles(made: Runs) -> dict[str, Any]:
    """What is refused, found out and told."""
    given = {**LORA, "checkpoint": {"every": 1}}
    found: dict[str, Any] = {"expected": made.whole(given, 2)}

    def dead() -> Job:
        job = made.job(given, 2)
        assert runs.attempt(job, point="root-fsynced", visit=3) != 0
        return job

    job = dead()
    newest = sorted((Path(job.uri) / CHECKPOINTS).glob("step-*"))[-1]
    _flip(newest / "shard_1_of_2.safetensors")
    found["flipped"] = made.end(job)
    found["flipped, told"] = made.told(job)
    job = dead()
    found["whole model"] = made.end(made.job({**given, "sharding": {}}, 2, Path(job.uri)))
    job = made.job(given, 2)
    found["noticed"] = runs.attempt(job, notice_after=0.0)
    found["after a notice"] = made.end(job)
    long = {**given, "max_steps": 1000, "num_epochs": 1000}
    job = made.job(long, 2)
    code = runs.attempt(job, notice_after=2.5)
    found["noticed on the way"] = [code, runs.steps_lost(job)]
    for rank in (0, 1):
        job = made.job(long, 2)
        code = runs.attempt(job, kill_after=1.5, killed=rank)
        failed = (Path(job.uri) / "outcome.json").exists()
        found[f"worker {rank} killed"] = [code, failed]
    return found


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


PROGRAMS: dict[str, Callable[[Runs], dict[str, Any]]] = {
    each.__name__: each
    for each in (same_for_any_number, preferences, as_the_whole, resumes, troubles)
}

if __name__ == "__main__":
    print(json.dumps(PROGRAMS[sys.argv[2]](Runs(Path(sys.argv[1])))))  # noqa: T201
