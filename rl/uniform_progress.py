"""Uniform Progress for work with a deadline that can be interrupted: training jobs.

After Wu et al., "Can't Be Late: Optimizing Spot Instance Savings under Deadlines" (NSDI 2024): the
work that is left shall fall in proportion to the time that is left. A job on its line takes what is
cheap and may be interrupted; one behind it takes what is sure. There the sure place is a machine at
the full price; here it is the head, which costs nothing but has little memory. All other steps go
where the expected-cost policy would have them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rl.greedy import Greedy, GreedyParameters
from rl.simulator import Order
from rl.view import BUY, FIRST_MACHINE, HOME, MACHINES, WAIT, StepView, View

BEHIND = 1.02  # of the line; within it a job counts as on it


class UniformProgress:
    """The policy; keeps of each training step the line that it began on.

    Args:
        parameters: Of the expected-cost policy, for all other steps.
    """

    name = "uniform progress"
    order: Order = "urgent"

    def __init__(self, parameters: GreedyParameters | None = None) -> None:
        self._others = Greedy(parameters)
        self._lines: dict[int, float] = {}

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        step = view.step
        if step is None or not step.checkpointable:
            return self._others.choose(view, mask)
        costs = self._others.costs(view, mask)
        machines = [FIRST_MACHINE + slot for slot in range(MACHINES)]
        cheap = sorted((one for one in machines if mask[one]), key=costs.__getitem__)
        if self._is_behind(step):
            places = [HOME, *cheap, BUY]
        else:
            places = [*cheap, BUY, WAIT, HOME]
        return next((place for place in places if mask[place]), WAIT)

    def _is_behind(self, step: StepView) -> bool:
        """Whether less is done than the time that has passed would ask for."""
        if step.deadline_in <= 0:
            return True
        ratio = (step.home_seconds + step.after_seconds) / step.deadline_in
        line = self._lines.setdefault(step.number, ratio)
        return ratio > 1.0 or ratio > BEHIND * line
