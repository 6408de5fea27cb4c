"""What each option of a decision would have cost: the day simulated on with each, side by side.

Two branches of a day meet the same steps, the same user and the same machines (`rl.draws`), so the
difference of their costs is caused by the option alone, and has a far lower variance than a
return. A single label knows one future, but the network that is fitted to many can only learn what
the features tell: the expected difference, not the best choice of somebody who knew the day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.branches import advance, branch, is_idle
from rl.features import CONTEXT, OPTION, features
from rl.learning.plan import Training
from rl.neural import overs, weighed
from rl.parameters import Base
from rl.simulator import Decision, Policy, Simulation
from rl.work import Day

CHUNK_SECONDS = 1200.0  # after which branches that are all idle are compared
CLOSE = 0.04  # USD: where the second option is nearer than this, more decisions are labelled
MOST_OF_A_MONTH = 0.999
FAR_SHARE = 0.3  # of them that are, where it is not

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class Label:
    """A decision: slot 0 is the policy's own choice, the others are alternatives.

    Attributes:
        context: Of shape (len(CONTEXT),).
        options: Of shape (slots, len(OPTION)).
        over: Expected cost over the cheapest, of each slot, as scores begin with.
        cost: USD that each slot cost until the horizon, over slot 0.
        dollars: Of that, for machines.
    """

    context: Floats
    options: Floats
    over: list[float]
    cost: list[float]
    dollars: list[float]
    day: int


@dataclass(frozen=True, slots=True)
class Labels:
    """Many decisions (N), padded to the same number of slots (S).

    Attributes:
        context: (N, len(CONTEXT)).
        options: (N, S, len(OPTION)).
        over: (N, S).
        there: (N, S), whether a slot is filled.
        cost: (N, S), USD over slot 0.
        dollars: (N, S).
        day: (N,), which day it is of.
    """

    context: Floats
    options: Floats
    over: Floats
    there: npt.NDArray[np.bool_]
    cost: Floats
    dollars: Floats
    day: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.context)


def stacked(labels: Sequence[Label], alternatives: int) -> Labels:
    """Decisions as arrays; there must be one at least."""
    count, slots = len(labels), alternatives + 1
    options = np.zeros((count, slots, len(OPTION)), dtype=np.float32)
    over, cost, dollars = (np.zeros((count, slots), dtype=np.float32) for _ in range(3))
    there = np.zeros((count, slots), dtype=np.bool_)
    for row, label in enumerate(labels):
        used = len(label.over)
        options[row, :used] = label.options
        over[row, :used], cost[row, :used] = label.over, label.cost
        dollars[row, :used], there[row, :used] = label.dollars, True
    context = np.array([label.context for label in labels], dtype=np.float32)
    assert context.shape == (count, len(CONTEXT))
    day = np.array([label.day for label in labels], dtype=np.int64)
    return Labels(context, options, over, there, cost, dollars, day)


def collect(
    days: Iterable[Day],
    policy: Policy,
    base: Base,
    plan: Training,
    *,
    number: int = 0,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Label]:
    """Labels of decisions that a policy meets.

    Args:
        days: As many as are needed.
        policy: That decides, in the day and in its branches.
        base: Whose costs scores begin with.
        plan: How many, and of which.
        number: Of the round.
        is_over: Asked after each day; true to end before there are enough.
    """
    random = np.random.default_rng([plan.seed, 2, number])
    found: list[Label] = []
    for index, day in enumerate(days):
        found += _of_day(day, policy, base, plan, random, number * 1_000_000 + index)
        if len(found) >= plan.decisions or is_over():
            break
    return found[: plan.decisions]


def _of_day(
    day: Day,
    policy: Policy,
    base: Base,
    plan: Training,
    random: np.random.Generator,
    number: int,
) -> list[Label]:
    # a month's money may be nearly gone on any day
    month_spent = MOST_OF_A_MONTH * random.random() * day.regime.costs.month_dollars
    simulation = Simulation(day, order=policy.order, month_spent=month_spent)
    found: list[Label] = []
    while (decision := simulation.next_decision()) is not None:
        view, mask = decision.view, decision.mask
        taken = policy.choose(view, mask)
        costs = base.costs(view, mask)
        options = weighed(costs, view, plan.reach, plan.machines)
        if len(options) > 1 and taken in options and _is_chosen(costs, plan, random):
            others = [one for one in options if one != taken]
            count = min(plan.alternatives, len(others))
            chosen = [taken, *random.choice(others, count, replace=False).tolist()]
            found.append(_label(simulation, decision, policy, costs, chosen, plan, number))
            if random.random() < plan.explored:
                taken = options[int(random.integers(len(options)))]
        simulation.take(taken)
    return found


def _is_chosen(costs: Sequence[float], plan: Training, random: np.random.Generator) -> bool:
    least, second = sorted(costs)[:2]
    share = 1.0 if second - least < CLOSE else FAR_SHARE
    return bool(random.random() < plan.labelled * share)


def _label(
    simulation: Simulation,
    decision: Decision,
    policy: Policy,
    costs: Sequence[float],
    chosen: Sequence[int],
    plan: Training,
    number: int,
) -> Label:
    view, mask = decision.view, decision.mask
    context, options = features(view, mask, costs)
    over = overs(costs, view)
    spent = futures(simulation, policy, chosen, plan.horizon)
    own, machines = spent[0]
    return Label(
        context=context,
        options=options[list(chosen)],
        over=[over[one] for one in chosen],
        cost=[one[0] - own for one in spent],
        dollars=[one[1] - machines for one in spent],
        day=number,
    )


def futures(
    simulation: Simulation, policy: Policy, actions: Sequence[int], horizon: float
) -> list[tuple[float, float]]:
    """What a day costs until a horizon after each of some actions, a policy deciding the rest.

    Branches are compared earlier once all have nothing to do: from then on they are alike.

    Args:
        simulation: At a decision; it is not changed.
        policy: For the rest.
        actions: Allowed ones.
        horizon: Seconds.

    Returns:
        Of each action USD since midnight, of (the objective, machines).
    """
    start = simulation.world.now
    branches = []
    for action in actions:
        twin = branch(simulation)
        twin.take(action)
        branches.append(twin)
    until = start
    for chunk in range(1, math.ceil(horizon / CHUNK_SECONDS) + 1):
        until = start + min(chunk * CHUNK_SECONDS, horizon)
        for twin in branches:
            advance(twin, policy, until)
        if all(is_idle(twin) for twin in branches):
            break
    return [twin.world.spent_at(until) for twin in branches]
