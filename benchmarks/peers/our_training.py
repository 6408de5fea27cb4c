"""Our trainer: all of a worker's attempt, as Ray Train calls it, its checkpoints included."""

from __future__ import annotations

from benchmarks.training_contestant import Recorder
from benchmarks.training_work import Work
from ironcliw.settings import Settings
from train.worker import Job, read_outcome
from train.worker import work as attempt


def train(work: Work, recorder: Recorder) -> None:
    """The steps of a run of one worker.

    Raises:
        TrainingError: it failed.
    """
    settings = Settings(state_dir=recorder.folder / "state")
    uri = str(recorder.folder / "run")
    job = Job(work.config(), settings, uri, work.data(), None, work.threads)
    attempt(job, report=lambda step: recorder.step(step.loss))
    read_outcome(uri)
