"""What a day costs until a time, and what is left to be paid for then.

A cut after an hour would say that whoever puts work off saves its time. So what is left of each
workflow counts as long as it is believed to take, its deadline as likely as it is believed to be
missed, and machines for the work that they have. A deadline is not hit or missed by a second but
with a chance, which leaves what is expected nearly as it is and takes much of the noise away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rl.simulator import Simulation

HOUR = 3600.0
SMOOTH_SECONDS = 90.0
"""By which a deadline is blurred."""
DOUBT = 0.2  # of what is left, beside it


@dataclass(frozen=True, slots=True)
class Value:
    """Of a simulated day, USD since midnight.

    Attributes:
        cost: Of the objective, with what is left.
        dollars: For machines, likewise.
        own: Of the cost, the time and the deadline of one workflow.
    """

    cost: float
    dollars: float
    own: float


def value_at(simulation: Simulation, until: float, workflow: int, money_weight: float) -> Value:
    """What a day has cost by a time before which nothing more happens.

    Args:
        simulation: Of the day.
        until: Seconds after midnight.
        workflow: Number of the one whose part is told.
        money_weight: What a dollar for machines counts for; beyond 1 it is for what the day could
            have bought with it later.
    """
    world = simulation.world
    costs = world.day.regime.costs
    spent, machines = world.spent_at(until)
    to_pay = _to_pay(simulation, until)
    own = 0.0
    total = spent - world.miss_cost + (money_weight - 1.0) * machines + money_weight * to_pay
    for number, ended in world.finished.items():
        one = world.day.workflows[number]
        missed = costs.miss * one.priority * _chance(ended - one.deadline, 0.0)
        total += missed
        if number == workflow:
            own = missed + costs.hour_of_priority * one.priority * (ended - one.arrival) / HOUR
    for number, tasks in world.active.items():
        one = world.day.workflows[number]
        left = max(0.0, world.now + simulation.beliefs.seconds_to_end(tasks) - until)
        missed = costs.miss * one.priority * _chance(until + left - one.deadline, left)
        total += missed + costs.hour_of_priority * one.priority * left / HOUR
        if number == workflow:
            seconds = until + left - one.arrival
            own = missed + costs.hour_of_priority * one.priority * seconds / HOUR
    return Value(total, machines + to_pay, own)


def _to_pay(simulation: Simulation, until: float) -> float:
    """USD for what machines have still to do at a time."""
    _, machines, money = simulation.beliefs.parts()
    passed = until - simulation.world.now  # beliefs are of the last event
    busy = sum(
        max(0.0, one.busy_seconds - passed)
        for one in machines
        if one is not None and one.state != "leaving"
    )
    return money.price_per_hour * busy / HOUR


def _chance(late: float, left: float) -> float:
    """That a deadline is missed.

    Args:
        late: Seconds after it.
        left: Of them, those that are believed only.
    """
    blurred = late / (SMOOTH_SECONDS + DOUBT * left)
    return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, blurred))))
