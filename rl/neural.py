"""A learned policy that decides with numpy alone.

It starts from its base, the expected-cost or the queue-aware policy: an option's score is minus
what the base believes it to cost over the cheapest, less what its effects on others are learned to
cost, plus what a network adds. Where a view is unlike those of training, where the network is not
much surer than the costs, or where there is nothing near the cheapest, the base's choice is taken.
The network sees options one by one, so slots of machines are alike to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rl.effects import effects
from rl.features import features
from rl.parameters import policy_of
from rl.policy_file import Array, Layer, PolicyFile, load_policy
from rl.simulator import Order
from rl.view import ACTIONS, View

# Costs of a decision about machines are no dollars but say what is better: they may differ so much.
MACHINES_OVER = 0.05
SLACK = 0.1  # of its range, by which a feature may lie beyond what training saw


@dataclass(slots=True)
class Opinion:
    """What a learned policy makes of a decision.

    Attributes:
        action: That it takes.
        base: That the base would take.
        costs: USD of each action, by the base; infinite where refused.
        scores: Of each action that was weighed; minus infinity of the others. Empty if none was.
        context: The features of the view; None if nothing was weighed.
        options: The features of each action, likewise.
        effects: On others, of each action that was weighed, 0 of the rest; None if none were
            learned.
        outside: Why the view is unlike those of training, in words; "" if it is not.
    """

    action: int
    base: int
    costs: list[float]
    scores: list[float] = field(default_factory=list)
    context: Array | None = None
    options: Array | None = None
    effects: npt.NDArray[np.float64] | None = None
    outside: str = ""


@dataclass(slots=True)
class Counts:
    """Of decisions: all, those that the network weighed, changed, and those unlike training."""

    decisions: int = 0
    weighed: int = 0
    changed: int = 0
    outside: int = 0


class Learned:
    """A learned policy; `rl.simulator.Policy`.

    Args:
        policy: The policy, or its file.
        name: In reports.

    Attributes:
        policy: What it decides by; `policy.digest` tells it from others.
        base: The policy that it starts from.
        order: Of the base.
        counts: Of its decisions until now.
    """

    def __init__(self, policy: PolicyFile | Path, *, name: str = "learned") -> None:
        self.name = name
        self.policy = policy if isinstance(policy, PolicyFile) else load_policy(policy)
        self.counts = Counts()
        self.base = policy_of(self.policy.parameters)
        self.order: Order = self.base.order
        guard = self.policy.guard
        room = SLACK * (guard.high - guard.low) + 1e-3
        self._low, self._high = guard.low - room, guard.high + room
        self._width = len(guard.mean)

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        return self.opinion(view, mask).action

    def costs(self, view: View, mask: Sequence[bool]) -> list[float]:
        """USD of each action by the base, infinite where it is refused."""
        return self.base.costs(view, mask)

    def opinion(self, view: View, mask: Sequence[bool]) -> Opinion:
        """The choice and what led to it."""
        costs = self.base.costs(view, mask)
        found = weighed(costs, view, self.policy.reach, self.policy.machines)
        cheapest = min(range(ACTIONS), key=costs.__getitem__)
        self.counts.decisions += 1
        opinion = Opinion(cheapest, cheapest, costs)
        if len(found) < 2:
            return opinion
        context, options = features(view, mask, costs)
        opinion.context, opinion.options = context, options
        opinion.outside = self.outside(context, options[found])
        if opinion.outside:
            self.counts.outside += 1
            return opinion
        self.counts.weighed += 1
        over = np.array(overs(costs, view))[found]
        if self.policy.effects is not None:
            seen = effects(view, found)
            opinion.effects = np.zeros((ACTIONS, seen.shape[1]))
            opinion.effects[found] = seen
            over = over + seen @ self.policy.effects
        scores = residuals(self.policy.layers, context, options[found]) - over / self.policy.tau
        opinion.scores = [-math.inf] * ACTIONS
        for action, score in zip(found, scores.tolist(), strict=True):
            opinion.scores[action] = score
        best = max(found, key=opinion.scores.__getitem__)
        # False for what is no number, so that the cheapest stays
        if opinion.scores[best] - opinion.scores[cheapest] > self.policy.margin:
            opinion.action = best
            self.counts.changed += 1
        return opinion

    def outside(self, context: Array, options: Array) -> str:
        """Why features are unlike those of training; "" if they are not.

        Args:
            context: Of shape (len(CONTEXT),).
            options: Of those that are weighed, of shape (any, len(OPTION)).
        """
        width, guard = self._width, self.policy.guard
        # written so that what is no number is outside
        if not ((context >= self._low[:width]) & (context <= self._high[:width])).all():
            return "the context lies beyond its range in training"
        if not ((options >= self._low[width:]) & (options <= self._high[width:])).all():
            return "an option lies beyond its range in training"
        off = context - guard.mean
        if not float(off @ guard.precision @ off) <= guard.limit:
            return "the context is a combination that training has not seen"
        return ""


def weighed(costs: Sequence[float], view: View, reach: float, machines: bool) -> list[int]:
    """Actions that are weighed: allowed, and not believed to cost much more than the cheapest.

    Args:
        costs: By the base.
        view: At the decision.
        reach: USD over the cheapest, for a decision about a step.
        machines: Whether a decision about machines is weighed at all.
    """
    if view.step is None:
        if not machines:
            return []
        return [action for action in range(ACTIONS) if costs[action] < math.inf]
    most = min(costs) + reach
    return [action for action in range(ACTIONS) if costs[action] <= most]


def overs(costs: Sequence[float], view: View) -> list[float]:
    """What each action is believed to cost over the cheapest: the score to begin with."""
    least = min(costs)
    if view.step is None:
        return [min(cost - least, MACHINES_OVER) for cost in costs]
    return [cost - least for cost in costs]


def residuals(layers: Sequence[Layer], context: Array, options: Array) -> npt.NDArray[np.float64]:
    """What the network adds to the score of each option.

    Args:
        layers: See `rl.policy_file.PolicyFile`.
        context: Of shape (len(CONTEXT),).
        options: Of shape (n, len(OPTION)).

    Returns:
        Of shape (n,).
    """
    weight, bias = layers[0]
    width = len(context)
    hidden = options @ weight[width:] + (context @ weight[:width] + bias)
    for weight, bias in layers[1:]:
        hidden = np.maximum(hidden, 0.0) @ weight + bias
    return hidden[:, 0].astype(np.float64)
