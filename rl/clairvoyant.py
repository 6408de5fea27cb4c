"""What could be reached by somebody who knew the day beforehand: a search, so an upper bound.

A plan says of some steps where they run, of some that they go before or after others, and which
policy with which parameters decides the rest; its views hold the truth. The search begins at the
best of some policies: from a worse one it would call more of what is missing impossible. The plan
is changed at random and run again, and a change that does no harm is kept (simulated annealing).
What it finds is a real schedule of the simulator under the guardrails; the optimum lies between
`rl.bounds.lower_bound` and it. On small days the tests compare it with the optimum itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rl.greedy import GreedyParameters
from rl.neural import Learned
from rl.outcome import Outcome
from rl.parameters import Base, Parameters, policy_of
from rl.policy_file import PolicyFile
from rl.simulator import Order, Simulation
from rl.view import BUY, FIRST_MACHINE, HOME, PREWARM, WAIT, View
from rl.work import Day

_TRIED = ("prewarm", "idle_seconds", "optimism", "tail_seconds", "scarcity")
PHASE = 100  # evaluations, after which the search cools down and begins again from the best
_LEVERS = (("parameters", 0.1), ("prewarms", 0.2), ("places", 0.6), ("holds", 0.75), ("ranks", 1.0))
_ALWAYS = (0.2, 0.3)  # taking back what was changed
ALL_LEVERS = frozenset(name for name, _ in _LEVERS)
Rest = Parameters | PolicyFile
"""Who decides what is not planned: a tuned policy by its parameters, or a learned one."""
_AWAY = (FIRST_MACHINE, FIRST_MACHINE + 1, FIRST_MACHINE + 2, BUY)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided beforehand.

    Attributes:
        places: Of a step: HOME, BUY (a machine of its own), or FIRST_MACHINE (any machine).
        ranks: Of a step: added to the logarithm of its urgency.
        holds: Of a step: seconds that it waits although it has a place, for what comes after it.
        prewarmed: Arrivals (seconds) at which a machine is bought for what will come.
        rest: Who decides all else.
    """

    rest: Rest
    places: dict[int, int] = field(default_factory=dict)
    ranks: dict[int, float] = field(default_factory=dict)
    holds: dict[int, float] = field(default_factory=dict)
    prewarmed: frozenset[float] = frozenset()


class Planned:
    """Carries out a plan.

    Args:
        plan: What is decided; a place that is refused at that time is left to the policy.
    """

    name = "clairvoyant"

    def __init__(self, plan: Plan) -> None:
        self._places = plan.places
        self._holds = plan.holds
        self._prewarmed = plan.prewarmed
        self._others = decider(plan.rest)
        self.order: Order = self._others.order

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        step = view.step
        if step is None and view.now in self._prewarmed and mask[PREWARM]:
            return PREWARM
        if step is not None and step.waited < self._holds.get(step.number, 0.0) and mask[WAIT]:
            return WAIT
        place = None if step is None else self._places.get(step.number)
        if place is None:
            return self._others.choose(view, mask)
        if place == HOME:
            return HOME if mask[HOME] else WAIT if mask[WAIT] else self._others.choose(view, mask)
        costs = self._others.costs(view, mask)
        options = (BUY,) if place == BUY and mask[BUY] else _AWAY
        allowed = [one for one in options if mask[one]]
        return min(allowed, key=costs.__getitem__) if allowed else self._others.choose(view, mask)


def decider(rest: Rest) -> Base | Learned:
    """The policy that decides what is not planned."""
    return Learned(rest) if isinstance(rest, PolicyFile) else policy_of(rest)


def run_plan(day: Day, plan: Plan) -> Outcome:
    """What a plan comes to."""
    policy = Planned(plan)
    simulation = Simulation(day, order=policy.order, clairvoyant=True, ranks=plan.ranks)
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask), policy.name)
    return simulation.outcome()


def search(
    day: Day,
    starts: Sequence[Rest] = (),
    *,
    evaluations: int = 400,
    seed: int = 0,
    levers: frozenset[str] = ALL_LEVERS,
) -> tuple[Plan, Outcome]:
    """The best plan found.

    Args:
        day: Known whole.
        starts: Policies of which the best on this day is begun with; the expected-cost one as
            written without.
        evaluations: Simulations of the day, those of the starts among them.
        seed: Of the search.
        levers: That it may move, to see what each is worth.
    """
    random = np.random.default_rng(seed)
    begun = [Plan(one) for one in starts or (GreedyParameters(),)]
    reached = [run_plan(day, one) for one in begun]
    first = min(range(len(begun)), key=lambda one: reached[one].cost)
    current = best = begun[first]
    cost = lowest = reached[first]
    for tried in range(evaluations - len(begun)):
        phase = tried % PHASE / PHASE
        if phase == 0.0:
            current, cost = best, lowest
        heat = 0.03 * lowest.cost * (1.0 - phase)
        plan = _changed(current, day, random, levers)
        found = run_plan(day, plan)
        worse = found.cost - cost.cost
        if worse <= 0 or random.random() < math.exp(-worse / max(heat, 1e-9)):
            current, cost = plan, found
            if found.cost < lowest.cost:
                best, lowest = plan, found
    return best, lowest


def _changed(plan: Plan, day: Day, random: np.random.Generator, levers: frozenset[str]) -> Plan:
    """A few places, ranks or holds, a machine bought early or one parameter changed."""
    kind = _drawn(random, levers)
    if kind < 0.1:
        name = _TRIED[int(random.integers(len(_TRIED)))]
        return replace(plan, rest=_varied(plan.rest, name, 0.6 * random.standard_normal()))
    if kind < 0.2:
        arrival = day.workflows[int(random.integers(len(day.workflows)))].arrival
        return replace(plan, prewarmed=plan.prewarmed ^ {arrival})
    steps = sum(len(workflow.steps) for workflow in day.workflows)
    chosen = random.integers(steps, size=int(random.geometric(0.5)))
    if kind < 0.3:
        return _without(plan, chosen.tolist())
    if kind < 0.6:
        places = dict(plan.places)
        for number in chosen:
            place = int(random.integers(4))
            if place == 3:
                places.pop(int(number), None)
            else:
                places[int(number)] = (HOME, FIRST_MACHINE, BUY)[place]
        return replace(plan, places=places)
    if kind < 0.75:
        holds = dict(plan.holds)
        for number in chosen:
            # half of the time none, and else about as long as a step takes
            wait = float(random.exponential(120.0)) * float(random.integers(2))
            holds[int(number)] = wait
        return replace(plan, holds=holds)
    ranks = dict(plan.ranks)
    for number in chosen:
        ranks[int(number)] = float(1.5 * random.standard_normal())
    return replace(plan, ranks=ranks)


def _varied(rest: Rest, name: str, by: float) -> Rest:
    """Another value of a parameter that both tuned policies have."""
    if isinstance(rest, PolicyFile):
        return replace(rest, parameters=_other(rest.parameters, name, by))
    return _other(rest, name, by)


def _other(parameters: Parameters, name: str, by: float) -> Parameters:
    values: dict[str, Any] = {name: float(getattr(parameters, name)) * math.exp(by)}
    return replace(parameters, **values)


def _drawn(random: np.random.Generator, levers: frozenset[str]) -> float:
    while True:
        kind = float(random.random())
        if _ALWAYS[0] <= kind < _ALWAYS[1] or _lever(kind) in levers:
            return kind


def _lever(kind: float) -> str:
    """Which one a draw is about."""
    return next(name for name, end in _LEVERS if kind < end)


def _without(plan: Plan, numbers: Sequence[int]) -> Plan:
    """Nothing decided beforehand about some steps."""
    dropped = set(numbers)
    return replace(
        plan,
        places={number: one for number, one in plan.places.items() if number not in dropped},
        ranks={number: one for number, one in plan.ranks.items() if number not in dropped},
        holds={number: one for number, one in plan.holds.items() if number not in dropped},
    )
