"""A day of the log in the simulator, within what the running system can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.baselines import idle_for, least_loaded
from rl.calibration.fit import CLOUD
from rl.outcome import Outcome
from rl.simulator import Order, Policy, Simulation
from rl.view import BUY, FIRST_MACHINE, HOME, MACHINES, WAIT, MachineView, StepView, View
from rl.work import Day


class AsLive:
    """A policy where machines are the system's affair.

    It may not buy one while another has room, since Ray would start the step there, and neither
    prewarms nor stops any: they go after their idle time.

    Args:
        policy: That decides on steps.
        idle_seconds: After which a machine without work is given back.
    """

    def __init__(self, policy: Policy, idle_seconds: float) -> None:
        self.name = policy.name
        self.order: Order = policy.order
        self._policy = policy
        self._idle_seconds = idle_seconds

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        if view.step is None:
            return idle_for(view, mask, self._idle_seconds)
        allowed = list(mask)
        if any(has_room(one, view.step) for one in view.machines):
            allowed[BUY] = False
        return self._policy.choose(view, allowed if any(allowed) else mask)


class AsLogged:
    """Sends each step where the log says it ran.

    Args:
        places: By the step's number.
        idle_seconds: After which a machine without work is given back.
    """

    name = "as logged"
    order: Order = "fifo"

    def __init__(self, places: Sequence[str], idle_seconds: float) -> None:
        self._places = places
        self._idle_seconds = idle_seconds

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        if view.step is None:
            return idle_for(view, mask, self._idle_seconds)
        if self._places[view.step.number] != CLOUD:
            wanted = [HOME, WAIT]
        else:
            there = [FIRST_MACHINE + slot for slot in range(MACHINES)]
            wanted = [one for one in (least_loaded(view, mask), *there, BUY, WAIT) if one != HOME]
            if any(mask[one] for one in there):
                wanted = [one for one in wanted if one not in (BUY, WAIT)]
        allowed = [action for action in (*wanted, HOME, WAIT) if mask[action]]
        return allowed[0] if allowed else list(mask).index(True)


def has_room(machine: MachineView | None, step: StepView) -> bool:
    """Whether Ray would start a step on that machine."""
    return (
        machine is not None and machine.state != "leaving" and step.memory_p95_gb <= machine.free_gb
    )


@dataclass(frozen=True, slots=True)
class Lived:
    """What a day came to.

    Attributes:
        outcome: Without what machines cost after the last workflow's end.
        tail: USD of that: a day ends with its work, machines live until their idle time is over.
        flows: Seconds of each workflow, in the order of the day's.
    """

    outcome: Outcome
    tail: float
    flows: npt.NDArray[np.float64]

    @property
    def dollars(self) -> float:
        """For machines."""
        return self.outcome.dollars + self.tail

    @property
    def cost(self) -> float:
        """USD: the objective; a day that cost nothing counts as next to it, for ratios."""
        return max(self.outcome.cost + self.tail, 1e-9)


def lived(day: Day, policy: Policy, idle_seconds: float) -> Lived:
    """Simulate a day.

    Args:
        day: Of a log.
        policy: That decides.
        idle_seconds: After which machines without work are given back.
    """
    simulation = Simulation(day, order=policy.order)
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask), policy.name)
    world = simulation.world
    idle = [
        world.now - one.idle_since if one.is_ready else 0.0 for one in world.there() if one.is_real
    ]
    seconds = sum(max(0.0, idle_seconds - one) for one in idle)
    ends = [world.finished.get(one.number, world.now) - one.arrival for one in day.workflows]
    return Lived(simulation.outcome(), seconds / 3600.0 * world.ledger.price, np.array(ends))
