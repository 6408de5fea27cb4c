"""Optimizer steps from where a run stands to its end, its machine's end, or a failure.

Nothing here knows Ray or files: the workers meet in a `Group`, checkpoints go to a `Saver`, and
whether the machine is about to end is a function that is asked between micro-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ironcliw.errors import CheckpointError, TrainingError
from train.checkpoint.snapshot import Checkpoint, Snapshot
from train.data.plan import Step, StepPlan
from train.data.tokenized import TokenizedData
from train.evaluation.held_out import DIGITS, MEASURED_OF
from train.fingerprint import Fingerprint
from train.loop.log import RunLog
from train.loop.objective import Objective
from train.loop.optimizer import Optimizer
from train.loop.passes import Passes, ShardPasses, TrainedParameters
from train.loop.reduce import Group, StepSum
from train.loop.saving import Saver
from train.loop.schedule import LearningRate
from train.loop.shares import InterruptedEvaluationError

_SHOWN_ROWS = 8
_INEXACT_REFERENCE = "inexact reference"


class MachineEndsError(TrainingError):
    """All is saved; to be run again on another machine."""


class Ending(Enum):
    """Why a run stopped without an error."""

    FINISHED = "finished"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step was, for progress bars and dashboards; its times are in no log.

    Attributes:
        step: Optimizer steps done.
        steps: Of the whole run.
        epoch: Counted from 0.
        loss: Mean over the supervised tokens of the batch, or over its pairs.
        norm: Of the gradient.
        learning_rate: That was used.
        tokens: Of the batch, over all workers.
        seconds: That it took, saving not counted.
        of_attempt: Counted from 1 since the workers were started.
        save_seconds: That the newest save took to be durable; None: none is yet.
        measures: What else the objective measures, by name.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    norm: float
    learning_rate: float
    tokens: int
    seconds: float
    of_attempt: int = 1
    save_seconds: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Parts:
    """What a run is made of; see `train.assembly` for how.

    Attributes:
        plan: What each step reads.
        data: The rows.
        objective: What is minimised.
        flat: The trained parameters.
        optimizer: Over them.
        schedule: The learning rate of each step.
        group: The workers.
        fingerprint: What the numbers depend on.
        saver: Saves; None on all workers but the first, where each has the whole model.
        seed: Of the run.
        evaluate: Called at the end of epochs with the number of steps done, on all workers; what it
            returns goes to the log. None, or a result of None: nothing is measured then. It raises
            `InterruptedEvaluationError` on all of them where the machine of one is about to end.
        notice: Whether this worker's machine is about to end.
        report: Called after each step.
        logged: Called with each line that the log gets, on the first worker.
        passes: How a step's gradient is computed; None: each worker has the whole model.
        inexact: What the objectives were made with otherwise than this run would, in words.
    """

    plan: StepPlan
    data: TokenizedData
    objective: Objective
    flat: TrainedParameters
    optimizer: Optimizer
    schedule: LearningRate
    group: Group
    fingerprint: Fingerprint
    saver: Saver | None
    seed: int = 0
    evaluate: Callable[[int], Mapping[str, float] | None] | None = None
    notice: Callable[[], bool] = lambda: False
    report: Callable[[StepReport], None] = lambda report: None
    logged: Callable[[Mapping[str, Any]], None] = lambda line: None
    passes: Passes | None = None
    inexact: tuple[str, ...] = ()


class TrainingRun:
    """Goes from step to step.

    Args:
        parts: What it is made of.

    Attributes:
        step: Optimizer steps done.
        log: A line for each of them.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._passes = parts.passes or ShardPasses(
            parts.plan.shards, parts.flat, parts.objective, parts.group, parts.notice, parts.seed
        )
        self.step = self._begun = 0
        self.log = RunLog()

    @property
    def fingerprint(self) -> Fingerprint:
        """What the run's numbers depend on."""
        return self._parts.fingerprint

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint was saved.

        Raises:
            CheckpointError: it is of other parameters.
        """
        state, flat = checkpoint.state, self._parts.flat
        if state["layout"] != flat.layout():
            raise CheckpointError(
                f"checkpoint {checkpoint.location} holds other parameters than this run trains; "
                "resume with the configuration that it was saved with"
            )
        tensors = flat.restore(checkpoint.tensors)
        self._parts.optimizer.restore(tensors, state["optimizer"])
        self.step = self._begun = checkpoint.step
        self.log = RunLog(state["log"])
        if checkpoint.inexact:
            self.log.add(event="inexact resume", step=self.step, why=list(checkpoint.inexact))

    def mark(self) -> None:
        """Let the log say, once, what the objectives were made with otherwise; before `run`."""
        why = list(self._parts.inexact)
        marks = (line for line in self.log.lines() if line.get("event") == _INEXACT_REFERENCE)
        if why and all(mark["why"] != why for mark in marks):
            self.log.add(event=_INEXACT_REFERENCE, step=self.step, why=why)

    def snapshot(self) -> Snapshot:
        """The run between two steps."""
        parts = self._parts
        state = {
            "layout": parts.flat.layout(),
            "optimizer": parts.optimizer.numbers(),
            "log": self.log.text,
        }
        tensors = parts.flat.snapshot(parts.optimizer.tensors())
        return Snapshot(self.step, tensors, state, parts.fingerprint)

    def run(self) -> Ending:
        """To the end of the run, or of the machine; then everything is durable.

        Raises:
            TrainingError: a loss that is no number; the last good step is durable.
            CheckpointError: it could not be saved.
            PeerLostError: another worker is gone, or stands elsewhere.
        """
        parts = self._parts
        parts.group.agree(self.step)
        while True:
            if not self._evaluated():
                self._save_together()
                return Ending.NOTICE
            if self.step >= parts.schedule.steps:
                self._save()
                return Ending.FINISHED
            begun = time.perf_counter()
            step = parts.plan.step(self.step)
            total = self._passes.compute(step)
            if total.notice:
                # computed in part at most: it is done again, whole, by the next attempt
                self._save_together()
                return Ending.NOTICE
            self._finish(step, total, begun)

    def _finish(self, step: Step, total: StepSum, begun: float) -> None:
        parts = self._parts
        units = max(1, parts.objective.units(step))
        loss, *means = (each / units for each in total.sums)
        if self.step == 0 and math.isfinite(loss):
            parts.objective.check_first(loss)
        rate = parts.schedule.at(self.step)
        # a loss without a number can come with a gradient that has one, which must not be applied
        norm = parts.optimizer.step(rate, float(units)) if math.isfinite(loss) else math.nan
        parts.flat.gradient.zero_()
        self._passes.updated()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._save_together()
            raise TrainingError(self._not_finite(step, loss, norm))
        self.step += 1
        if parts.saver is not None:
            parts.saver.hold(self.step)
        measures = dict(zip(parts.objective.measures, means, strict=True))
        line = self.log.add(
            step=self.step,
            epoch=step.epoch,
            loss=loss,
            norm=norm,
            learning_rate=rate,
            tokens=step.tokens,
            supervised=step.supervised,
            rows=list(step.rows),
            **measures,
        )
        parts.logged(line)
        seconds = time.perf_counter() - begun
        parts.report(
            StepReport(
                self.step,
                parts.schedule.steps,
                step.epoch,
                loss,
                norm,
                rate,
                step.tokens,
                seconds,
                of_attempt=self.step - self._begun,
                save_seconds=parts.saver.durable_seconds if parts.saver is not None else None,
                measures=measures,
            )
        )
        if parts.saver is not None and self.step < parts.schedule.steps:
            parts.saver.after_step(self.step, seconds, self.snapshot)

    def _evaluated(self) -> bool:
        """Measure at the end of an epoch, once; False where a notice came in between."""
        parts = self._parts
        at_end = self.step % parts.plan.steps_per_epoch == 0 or self.step == parts.schedule.steps
        if parts.evaluate is None or not at_end or self._was_evaluated():
            return True
        try:
            found = parts.evaluate(self.step)
        except InterruptedEvaluationError:
            return False
        if found is not None:
            of = parts.fingerprint.held_out[:DIGITS]
            told = {MEASURED_OF: of} if of else {}
            parts.logged(self.log.add(event="evaluation", step=self.step, **found, **told))
        return True

    def _was_evaluated(self) -> bool:
        last = self.log.lines()[-1:]
        return bool(last) and (last[0].get("event"), last[0]["step"]) == ("evaluation", self.step)

    def _save(self) -> None:
        if self._parts.saver is not None:
            self._parts.saver.now(self.snapshot())

    def _save_together(self) -> None:
        """Save, and wait until it is durable: a worker that left before would end the attempt."""
        self._save()
        self._parts.group.agree(self.step)

    def _not_finite(self, step: Step, loss: float, norm: float) -> str:
        data = self._parts.data
        rows = [data.source(row) for row in step.rows[:_SHOWN_ROWS]]
        more = f" and {len(step.rows) - len(rows)} more" if len(step.rows) > len(rows) else ""
        return (
            f"step {step.number}: the loss is {loss} and the gradient's norm {norm}; its batch is "
            f"{', '.join(rows)}{more}. The run is saved as it was before this step. Lower "
            "learning_rate, or take the row out of the data"
        )
