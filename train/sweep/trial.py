"""One trial: a run of its own in a folder of its own, whose worker Ray Tune starts and may end.

What Ray Tune knows of a trial is its measures. What the trial is lies in its run's checkpoints: it
is started again after a death, finds its newest one, and goes on with the same bits.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

from ironcliw.errors import CheckpointError, TrainingError
from ironcliw.settings import load_settings
from train.config import TrainingConfig
from train.job import Job
from train.outcome import read_outcome, set_aside_failure
from train.ray_worker import on_this_machine
from train.run_files import CONFIG, PATIENCE, RunFiles
from train.sweep.config import SweepConfig
from train.sweep.points import trial_name
from train.worker import work

logger = logging.getLogger(__name__)

RECORD = "trial.json"
EPOCH, FAILED = "epoch", "failed"


@dataclasses.dataclass(frozen=True, slots=True)
class TrialJob:
    """What all trials of a sweep are given.

    Attributes:
        job: Of which data, tokenizer, settings and threads are every trial's.
        sweep: The sweep.
        uri: Of its folder.
        model: Digest of the model's files.
    """

    job: Job
    sweep: SweepConfig
    uri: str
    model: str


def trial_uri(sweep_uri: str, point: Mapping[str, Any]) -> str:
    """Of a trial's run."""
    return f"{sweep_uri}/trials/{trial_name(point)}"


def forget_failure(sweep_uri: str, point: Mapping[str, Any]) -> None:
    """Let a trial that has failed go on as if it had only been interrupted.

    Raises:
        CheckpointError: the storage cannot be used.
    """
    files = RunFiles(trial_uri(sweep_uri, point))
    set_aside_failure(files)
    found = files.read(RECORD)
    if found is not None:
        files.write(RECORD, {name: value for name, value in found.items() if name != FAILED})


def run_trial(config: dict[str, Any], given: TrialJob | None = None) -> None:
    """A trainable of Ray Tune's; to be called in a trial's process.

    Args:
        config: Of the trial, with its `point`.
        given: What all trials have; never None (Tune gives it by name).
    """
    from ray import tune

    assert given is not None, "tune.with_parameters gives it"
    point = config["point"]
    uri = trial_uri(given.uri, point)
    made = _in_this_process(given.sweep.trial(point), given.job.config)
    job = dataclasses.replace(given.job, config=made, uri=uri)
    numbers = {**made.numbers(), "data": job.train.digest, "model": given.model}
    begun = {"config": made.model_dump(mode="json"), "numbers": numbers}
    told = History()

    def listen(line: Mapping[str, Any]) -> None:
        found = told.add(line)
        if found is not None:
            files.write(RECORD, {"point": point, "history": told.evaluations})
            if found["step"] > 0:
                tune.report(dict(found))

    def fail(why: str) -> None:
        # it would fail again in the same way, and Tune would start it for ever: the sweep goes on
        # without it
        try:
            files.write(RECORD, {"point": point, "history": told.evaluations, FAILED: why})
        except CheckpointError as error:
            logger.error("the failure of a trial is not written down: %s", error.message)
        tune.report({given.sweep.metric: math.nan, EPOCH: made.num_epochs, FAILED: why})

    files = RunFiles(uri)
    try:
        PATIENCE.call(lambda: files.write(CONFIG, begun), f"beginning trial {trial_name(point)}")
    except CheckpointError as error:
        fail(error.message)
        return
    work(on_this_machine(job, load_settings()), listen=listen)
    try:
        if PATIENCE.call(lambda: read_outcome(uri), "reading a trial's outcome") is None:
            fail(f"trial {trial_name(point)} ended without an outcome; see its storage")
    except (CheckpointError, TrainingError) as error:
        fail(error.message)


def _in_this_process(made: TrainingConfig, shared: TrainingConfig) -> TrainingConfig:
    """A trial's configuration with the paths as they are here: it has another working directory."""
    # the run's name would be that of all trials, on their pages and where they are merged
    common: dict[str, Any] = {"model_name": shared.model_name, "data": shared.data, "name": ""}
    if made.preference is not None and shared.preference is not None:
        cache = shared.preference.reference_cache
        common["preference"] = made.preference.model_copy(update={"reference_cache": cache})
    return made.model_copy(update=common)


class History:
    """What a run's log says of its held-out rows.

    Attributes:
        evaluations: Step, epochs done, and measures, of each evaluation.
    """

    def __init__(self) -> None:
        self.evaluations: list[dict[str, Any]] = []
        self._epochs = 0

    def add(self, line: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take in a line of the log; returns what it says, if it is an evaluation."""
        if "event" not in line:
            self._epochs = int(line["epoch"]) + 1
        if line.get("event") != "evaluation":
            return None
        measures = {name: value for name, value in line.items() if isinstance(value, float)}
        found = {"step": int(line["step"]), EPOCH: self._epochs, **measures}
        self.evaluations.append(found)
        return found
