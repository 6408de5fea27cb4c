"""Our trainer: all of a worker's attempt, as Ray Train calls it, its checkpoints included."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.training_contestant import Recorder
from benchmarks.training_work import Work
from ironcliw.settings import Settings
from train.job import Job
from train.loop.run import StepReport
from train.outcome import read_outcome
from train.worker import work as attempt


def train(work: Work, recorder: Recorder) -> None:
    """The steps of a run of one worker, saved as often as the trainer finds right.

    Raises:
        TrainingError: it failed.
    """
    _train(work, recorder, {})


def train_saving_each_step(work: Work, recorder: Recorder) -> None:
    """The same with a save of each step.

    Raises:
        TrainingError: it failed.
    """
    _train(work, recorder, {"checkpoint": {"every": 1}})


def _train(work: Work, recorder: Recorder, changes: dict[str, Any]) -> None:
    settings = Settings(state_dir=recorder.folder / "state")
    uri = str(recorder.folder / "run")
    job = Job(work.config(**changes), settings, uri, work.data(), None, work.threads)

    def report(step: StepReport) -> None:
        recorder.step(step.loss, step.seconds, step.measures.get("reward_margin", math.nan))

    attempt(job, report=report)
    read_outcome(uri)
