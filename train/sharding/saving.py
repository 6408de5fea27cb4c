"""When a sharded run is saved: the first worker says so, and all do it between the same steps."""

from __future__ import annotations

from collections.abc import Callable

from train.checkpoint.options import CheckpointOptions
from train.checkpoint.snapshot import Snapshot
from train.checkpoint.writer import AsyncWriter
from train.loop.saving import Saver
from train.sharding.signals import Signals


class ShardedSaver(Saver):
    """Saves a worker's pieces, together with all others.

    Args:
        writer: Of this worker's part.
        options: How often.
        machines: That the run uses at once.
        step: Optimizer steps done when this attempt began.
        signals: Between the workers.
        is_first: Whether this worker says when.
    """

    def __init__(
        self,
        writer: AsyncWriter,
        options: CheckpointOptions,
        machines: int,
        step: int,
        signals: Signals,
        *,
        is_first: bool,
    ) -> None:
        super().__init__(writer, options, machines, step)
        self._signals, self._is_first = signals, is_first
        self._state: tuple[int, Callable[[], Snapshot]] | None = None

    def after_step(self, step: int, seconds: float, snapshot: Callable[[], Snapshot]) -> None:
        """Ask for a save if it is time to; it is made when the next step begins."""
        self._state = step, snapshot
        if self._is_due(step, seconds) and self._is_first:
            self._signals.wants_save = True

    def save_agreed(self) -> None:
        """Save as the run stood after its last step.

        Raises:
            CheckpointError: the save before this one failed.
        """
        assert self._state is not None, "nobody asks for a save before a step"
        step, snapshot = self._state
        self._submit(step, snapshot())
