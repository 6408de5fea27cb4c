"""When a run is saved: every K steps, K being given or chosen from what a save costs."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Callable

from ironcliw.errors import CheckpointError
from train.checkpoint.interval import choose_interval, mean_seconds_between_failures
from train.checkpoint.manifest import Manifest
from train.checkpoint.options import CheckpointOptions
from train.checkpoint.snapshot import Snapshot
from train.checkpoint.writer import AsyncWriter

logger = logging.getLogger(__name__)

_FIRST = 1
"""The first save is made early: it measures what one costs, and shows that the storage works."""
_REMEMBERED = 20


class Saver:
    """Saves in the background; the first worker of a run has one.

    The others need not know when: a save is no meeting, and changes no number. So K may differ from
    attempt to attempt, and is chosen on the first worker alone.

    Args:
        writer: To the run's storage.
        options: How often.
        machines: That the run uses at once: any one's loss ends its attempt.
        step: Optimizer steps done when this attempt began.
    """

    def __init__(
        self, writer: AsyncWriter, options: CheckpointOptions, machines: int, step: int
    ) -> None:
        self._writer = writer
        self._options = options
        self._mtbf = mean_seconds_between_failures(options.mtbf_hours, machines=machines)
        self._begun = self._saved = step
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self.every = options.every if isinstance(options.every, int) else _FIRST
        """Steps from save to save, as of now."""

    @property
    def durable_seconds(self) -> float | None:
        """That the newest save took; None: none is durable yet."""
        cost = self._writer.cost
        return None if cost is None else cost.durable_seconds

    def hold(self, step: int) -> None:
        """Before a step counts as done: where K is given, a sudden death costs K steps at most.

        A save is written beside the next steps; where these are faster, they wait for it. A K that
        was chosen weighs that against the wait, and says what a death costs.

        Args:
            step: Optimizer steps done, this one included.

        Raises:
            CheckpointError: the save that is waited for failed.
        """
        newest = self._writer.newest
        durable = self._begun if newest is None else newest.step
        if self._options.every != "auto" and step - durable > self.every:
            self._writer.wait()

    def after_step(self, step: int, seconds: float, snapshot: Callable[[], Snapshot]) -> None:
        """Save if it is time to.

        Args:
            step: Optimizer steps done.
            seconds: That the last one took, without a save.
            snapshot: Of now; called when it is needed.

        Raises:
            CheckpointError: the save before this one failed.
        """
        if self._is_due(step, seconds):
            self._submit(step, snapshot())

    def _is_due(self, step: int, seconds: float) -> bool:
        self._times.append(seconds)
        return step - self._saved >= self.every

    def _submit(self, step: int, snapshot: Snapshot) -> None:
        self._saved = step
        self._writer.submit(snapshot)
        if self._options.every == "auto" and self._writer.cost is not None:
            found = choose_interval(self._writer.cost, statistics.median(self._times), self._mtbf)
            if found.steps != self.every:
                logger.info(
                    "saved every %d steps: a sudden death costs %d steps at the most",
                    found.steps,
                    found.most_lost,
                )
            self.every = found.steps

    def now(self, snapshot: Snapshot) -> Manifest | None:
        """Save at once unless this very step is durable already, and wait until it is.

        Raises:
            CheckpointError: it could not be written.
        """
        try:
            newest = self._writer.wait()
        except CheckpointError as error:
            # what failed may have passed, and this is the last chance
            logger.warning("a save has failed, and is tried again: %s", error)
            newest = None
        if newest is not None and newest.step == snapshot.step:
            return newest
        self._writer.submit(snapshot)
        self._saved = snapshot.step
        return self._writer.wait()
