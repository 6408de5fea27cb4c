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
from train.loop import passes
from train.loop.log import RunLog
from train.loop.optimizer import Optimizer
from train.loop.run import TrainingRun
from train.loop.schedule import LearningRate
from train.sharding.parameters import ShardedParameters
from train.sharding.rounds import Rounds


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

    passes.seeded = seeded  # type: ignore[attr-defined]


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


def add_backwards() -> None:
    """The gradients of a round are added from the last worker to the first."""
    real: Any = torch.distributed.all_to_all_single

    def exchange(received: torch.Tensor, sent: torch.Tensor, group: Any) -> None:
        real(received, sent, group=group)
        parts = received.view(group.size(), -1)
        parts.copy_(parts.flip(0).clone())

    setattr(torch.distributed, "all_to_all_single", exchange)  # noqa: B010  # it is typed as its own


def take_all_parts() -> None:
    """What a worker without a micro-batch of its own computes is counted."""
    real = Rounds._pass

    def counted(self: Rounds, step: Step, number: int, places: Any) -> Any:
        filled = next(each for each in places if each is not None)
        return real(self, step, number, tuple(each or filled for each in places))

    Rounds._pass = counted  # type: ignore[method-assign]


def swap_moments() -> None:
    """Adam's moments are those of the rows behind one's own."""
    real = ShardedParameters.restore

    def restore(
        self: ShardedParameters, tensors: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        found = real(self, tensors)
        return {name: tensor.roll(1) if tensor.dim() else tensor for name, tensor in found.items()}

    ShardedParameters.restore = restore  # type: ignore[method-assign]


FSDP_MISTAKES: dict[str, Callable[[], None]] = {
    "gradients are added in another order": add_backwards,
    "what an idle worker computes is counted": take_all_parts,
    "moments of other rows": swap_moments,
    "data of the next step": shift_data,
}
"""Of runs in pieces whose steps have several rounds, and shards of unequal length."""
