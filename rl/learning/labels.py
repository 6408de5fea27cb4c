"""What each option of a decision would have cost: the day simulated on with each, side by side.

Two branches of a day meet the same steps, the same user and the same machines (`rl.draws`), so the
difference of their costs is caused by the option alone, and has a far lower variance than a return.
Machines start and work as the median one does there, and what is left at the horizon is counted as
it is believed (`values`). A single label knows one future, but what is fitted to many can only
learn what the features tell: the expected difference, not the best choice of somebody who knew the
day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rl.branches import advance, branch, is_idle
from rl.effects import EFFECTS, effects
from rl.features import CONTEXT, OPTION, features
from rl.learning.plan import Training
from rl.learning.values import Value, value_at
from rl.neural import overs, weighed
from rl.parameters import Base
from rl.simulator import Decision, Policy, Simulation
from rl.view import View
from rl.work import Day

CHUNK_SECONDS = 1200.0  # after which branches that are all idle are compared
_PADDED = ("over", "cost", "dollars", "own", "own_believed")

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]


@dataclass(slots=True)
class Label:
    """A decision: slot 0 is the policy's own choice, the others are alternatives.

    Attributes:
        context: Of shape (len(CONTEXT),).
        options: Of shape (slots, len(OPTION)).
        effects: Of shape (slots, len(EFFECTS)).
        over: Cost over the cheapest by the base, of each slot, as scores begin with.
        cost: USD that each slot cost with what was left at the horizon, over slot 0.
        dollars: Of that, for machines.
        own: Of the cost, the time and the deadline of the step's own workflow.
        own_believed: The same as the base believes it.
    """

    context: Floats
    options: Floats
    effects: Numbers
    over: list[float]
    cost: list[float]
    dollars: list[float]
    own: list[float]
    own_believed: list[float]
    day: int


@dataclass(frozen=True, slots=True)
class Labels:
    """Many decisions (N), padded to the same number of slots (S).

    Attributes:
        context: (N, len(CONTEXT)).
        options: (N, S, len(OPTION)).
        effects: (N, S, len(EFFECTS)).
        over: (N, S).
        there: (N, S), whether a slot is filled.
        cost: (N, S), USD over slot 0; so are the next three.
        dollars: (N, S).
        own: (N, S).
        own_believed: (N, S).
        day: (N,), which day it is of.
    """

    context: Floats
    options: Floats
    effects: Floats
    over: Floats
    there: npt.NDArray[np.bool_]
    cost: Floats
    dollars: Floats
    own: Floats
    own_believed: Floats
    day: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.context)


def targets(labels: Labels, plan: Training, price: float) -> Numbers:
    """(N, S): USD that each slot is told to cost over slot 0; 0 where there is none.

    The mean of these is what is to be learned, so they are cut far out only, where one day's luck
    would outweigh hundreds of others.

    Args:
        labels: Of decisions.
        plan: Its `trust` and `winsor`.
        price: By which a dollar for machines weighs more than another.
    """
    found = labels.cost + price * labels.dollars
    found = found - plan.trust * (labels.own - labels.own_believed)
    kept: Numbers = np.clip(found, -plan.winsor, plan.winsor).astype(np.float64)
    return np.where(labels.there, kept, 0.0)


def stacked(labels: Sequence[Label], alternatives: int) -> Labels:
    """Decisions as arrays; there must be one at least."""
    count, slots = len(labels), alternatives + 1
    options = np.zeros((count, slots, len(OPTION)), dtype=np.float32)
    of_others = np.zeros((count, slots, len(EFFECTS)), dtype=np.float32)
    columns = {name: np.zeros((count, slots), dtype=np.float32) for name in _PADDED}
    there = np.zeros((count, slots), dtype=np.bool_)
    for row, label in enumerate(labels):
        used = len(label.over)
        options[row, :used], of_others[row, :used] = label.options, label.effects
        there[row, :used] = True
        for name, column in columns.items():
            column[row, :used] = getattr(label, name)
    context = np.array([label.context for label in labels], dtype=np.float32)
    assert context.shape == (count, len(CONTEXT))
    day = np.array([label.day for label in labels], dtype=np.int64)
    return Labels(
        context=context, options=options, effects=of_others, there=there, day=day, **columns
    )


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
    simulation = Simulation(day, order=policy.order)
    typical = replace(day, is_typical=True)
    found: list[Label] = []
    while (decision := simulation.next_decision()) is not None:
        view, mask = decision.view, decision.mask
        taken = policy.choose(view, mask)
        costs = base.costs(view, mask)
        options = weighed(costs, view, plan.reach, plan.machines)
        if len(options) > 1 and taken in options and random.random() < plan.labelled:
            others = [one for one in options if one != taken]
            count = min(plan.alternatives, len(others))
            chosen = [taken, *random.choice(others, count, replace=False).tolist()]
            weight = base.money_weight(view)
            told = futures(simulation, policy, chosen, plan.horizon, weight, typical)
            found.append(_label(decision, base, costs, chosen, told, number))
            if random.random() < plan.explored:
                taken = options[int(random.integers(len(options)))]
        simulation.take(taken)
    return found


def _label(
    decision: Decision,
    base: Base,
    costs: Sequence[float],
    chosen: Sequence[int],
    told: Sequence[Value],
    number: int,
) -> Label:
    view, mask = decision.view, decision.mask
    context, options = features(view, mask, costs)
    over, own = overs(costs, view), own_believed(base, view, mask, costs)
    first = told[0]
    return Label(
        context=context,
        options=options[list(chosen)],
        effects=effects(view, chosen),
        over=[over[one] for one in chosen],
        cost=[one.cost - first.cost for one in told],
        dollars=[one.dollars - first.dollars for one in told],
        own=[one.own - first.own for one in told],
        own_believed=[own[one] - own[chosen[0]] for one in chosen],
        day=number,
    )


def own_believed(
    base: Base, view: View, mask: Sequence[bool], costs: Sequence[float]
) -> list[float]:
    """What of each option's cost is the step's own workflow's, by the base.

    It is what goes as that workflow has no weight; 0 in a decision about machines.
    """
    if view.step is None:
        return [0.0] * len(costs)
    others = base.costs(replace(view, step=replace(view.step, priority=0.0)), mask)
    return [one - rest if one < math.inf else 0.0 for one, rest in zip(costs, others, strict=True)]


def futures(
    simulation: Simulation,
    policy: Policy,
    actions: Sequence[int],
    horizon: float,
    money_weight: float = 1.0,
    day: Day | None = None,
) -> list[Value]:
    """What a day costs after each of some actions, a policy deciding the rest.

    Branches are compared earlier once all have nothing to do: from then on they are alike.

    Args:
        simulation: At a decision; it is not changed.
        policy: For the rest.
        actions: Allowed ones.
        horizon: Seconds, after which what is left is counted as it is believed.
        money_weight: See `value_at`.
        day: That the branches go on in; the simulation's own without.
    """
    assert simulation.asked is not None, "branches begin at a decision"
    task, start = simulation.asked.task, simulation.world.now
    branches = []
    for action in actions:
        twin = branch(simulation)
        twin.day = twin.world.day = day or simulation.day
        twin.take(action)
        branches.append(twin)
    until = start
    for chunk in range(1, math.ceil(horizon / CHUNK_SECONDS) + 1):
        until = start + min(chunk * CHUNK_SECONDS, horizon)
        for twin in branches:
            advance(twin, policy, until)
        if all(is_idle(twin) for twin in branches):
            break
    own = -1 if task is None else task.workflow.number
    return [value_at(twin, until, own, money_weight) for twin in branches]
