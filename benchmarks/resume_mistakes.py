"""Mistakes made on purpose in a resume: a proof that does not notice one proves nothing.

Each is called in the process of the resuming attempt, before it begins.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from train.checkpoint.snapshot import Checkpoint
from train.data.plan import Step, StepPlan
from train.loop import run
from train.loop.log import RunLog
from train.loop.optimizer import Optimizer
from train.loop.run import TrainingRun
from train.loop.schedule import LearningRate


def forget_moments() -> None:
    """The optimizer begins anew."""
    Optimizer.restore = lambda *_: None  # type: ignore[method-assign]


def forget_count() -> None:
    """The optimizer keeps its moments and forgets how many steps it made."""
    real = Optimizer.restore

    def restore(
        self: Optimizer, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]
    ) -> None:
        changed = {**tensors, "optimizer/step": torch.zeros_like(tensors["optimizer/step"])}
        real(self, changed, numbers)

    Optimizer.restore = restore  # type: ignore[method-assign]


def shift_data() -> None:
    """A step reads the rows of the next one."""
    real = StepPlan.step

    def step(self: StepPlan, number: int) -> Step:
        return real(self, (number + 1) % self.steps_per_epoch)

    StepPlan.step = step  # type: ignore[method-assign]


def shift_rate() -> None:
    """A step has the learning rate of the one before."""
    real = LearningRate.at
    LearningRate.at = lambda self, step: real(self, max(0, step - 1))  # type: ignore[method-assign]


def draw_anew() -> None:
    """Dropout depends on the time instead of the place."""

    @contextlib.contextmanager
    def seeded(*_: Any, **__: Any) -> Iterator[int]:
        yield int(torch.default_generator.manual_seed(time.time_ns() % 2**31).initial_seed())

    run.seeded = seeded  # type: ignore[attr-defined]


def forget_log() -> None:
    """The weights go on, the log begins anew."""
    real = TrainingRun.restore

    def restore(self: TrainingRun, checkpoint: Checkpoint) -> None:
        real(self, checkpoint)
        self.log = RunLog()

    TrainingRun.restore = restore  # type: ignore[method-assign]


MISTAKES: dict[str, Callable[[], None]] = {
    "Adam's moments are forgotten": forget_moments,
    "Adam's count of steps is forgotten": forget_count,
    "data of the next step": shift_data,
    "learning rate of the step before": shift_rate,
    "dropout drawn by the clock": draw_anew,
    "the log begins anew": forget_log,
}
"""By what is done wrong; all of them need a run with dropout and a falling rate to show."""
