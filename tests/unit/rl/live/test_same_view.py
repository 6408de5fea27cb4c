"""What is simulated and what is told by the running system are the same to a policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rl.greedy import Greedy
from rl.live.beliefs import TRANSFER_SECONDS
from rl.live.views import LiveView, LiveViews
from rl.parameters import load_parameters
from rl.queue_aware import QueueAware
from rl.queue_parameters import QueueParameters
from rl.shapes import Draft
from rl.simulator import Simulation
from rl.view import FIRST_MACHINE, KEEP, MACHINES, WAIT, View
from rl.work import Day
from tests.unit.rl.live.told import Teller, fit_of, like_a_system, local_midnight
from tests.unit.rl.made_days import made_day, plain_regime

MEGABYTES = 10.0 * TRANSFER_SECONDS  # the made days have 10 a second
# weights that make everything count that a view holds
LOUD = QueueParameters(
    beside_weight=0.3, ahead=0.5, pace=1.0, rent_memory=0.05, rent_cores=0.05, look_ahead=0.5,
    crowding_cloud=1.0, ration=2.0, tail_shared=0.3, stock=0.5, order_size=0.2,
)  # fmt: skip


def busy_day(seed: int) -> Day:
    random = np.random.default_rng(seed)
    workflows: list[tuple[float, Sequence[Draft]]] = []
    for number in range(14):
        steps = []
        for index in range(int(random.integers(1, 6))):
            parents = () if index == 0 else (0,) if index < 4 else tuple(range(1, index))
            memory, seconds = random.uniform(0.5, 9.0), random.uniform(20.0, 400.0)
            memory += 4.0 * bool(parents and number % 3 == 0)  # above 10 GB it never fits at home
            steps.append(Draft("function", parents, float(memory), float(seconds), MEGABYTES))
        workflows.append((36_000.0 + 15.0 * number, steps))
    return made_day(workflows, plain_regime(**like_a_system()))


def near(found: Sequence[float], expected: Sequence[float]) -> bool:
    return all(
        one == other if math.isinf(other) else abs(one - other) < 1e-9
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_situation_told_as_either_view_has_the_same_costs(seed: int) -> None:
    day = busy_day(seed)
    simulation = Simulation(day)
    teller, views = Teller(simulation, local_midnight()), LiveViews(fit_of(day), day.regime.costs)
    policies = (QueueAware(LOUD), QueueAware(), Greedy(load_parameters()))
    random, seen = np.random.default_rng(seed), list[View]()
    while (decision := simulation.next_decision()) is not None:
        if decision.task is None:
            simulation.take(KEEP)
            continue
        if teller.can_tell():
            live = views.build(teller(decision))
            seen.append(live.view)
            assert live.view.large_in == pytest.approx(decision.view.large_in, abs=1e-5)
            order = _order(decision.view, live)
            machines = [None if slot < 0 else decision.view.machines[slot] for slot in order]
            simulated = replace(decision.view, machines=machines)
            mask = _moved(decision.mask, order)
            for policy in policies:
                expected = policy.costs(simulated, mask)
                assert near(policy.costs(live.view, mask), expected), policy.name
        allowed = [action for action in range(WAIT + 1) if decision.mask[action]]
        waits = WAIT in allowed and random.uniform() < 0.5
        simulation.take(WAIT if waits else int(random.choice(allowed)))
    _all_was_seen(seen)


def _order(simulated: View, live: LiveView) -> list[int]:
    """The simulator's slot of each of the live ones; -1 where there is none."""
    found = [_slot(simulated, live.view, slot, node) for slot, node in enumerate(live.nodes)]
    return found + [-1] * (MACHINES - len(found))


def _moved(mask: Sequence[bool], order: Sequence[int]) -> list[bool]:
    """With the machines in that order."""
    found = [*mask]
    for slot, other in enumerate(order):
        found[FIRST_MACHINE + slot] = other >= 0 and mask[FIRST_MACHINE + other]
    return found


def _slot(simulated: View, live: View, slot: int, node: str) -> int:
    """The simulator's slot of a machine: it has a name, or is the one that starts likewise."""
    if node:
        return int(node.removeprefix("slot "))
    own = live.machines[slot]
    assert own is not None
    return next(
        number
        for number, one in enumerate(simulated.machines)
        if one is not None
        and one.state == "booting"
        and abs(one.ready_in - own.ready_in) < 1e-6
        and abs(one.busy_seconds - own.busy_seconds) < 1e-6
    )


def _all_was_seen(seen: Sequence[View]) -> None:
    """The days are such that a part which is left out shows."""
    assert max(len(view.others) for view in seen) > 5
    assert any(view.step is not None and view.step.beside_seconds > 0 for view in seen)
    assert any(abs(view.money.cloud_pace - 1.0) > 0.01 for view in seen)
    assert len({view.large_in for view in seen if 0.0 < view.large_in < math.inf}) > 5
    assert max(len(view.home.runs) for view in seen) > 1
    machines = [one for view in seen for one in view.machines if one is not None]
    assert {one.state for one in machines} >= {"booting", "ready"}
    assert any(one.runs for one in machines)
    assert any(one.state == "booting" and one.cores_wanted for one in machines)


def test_the_time_of_day_has_its_fractions() -> None:
    day = busy_day(1)
    simulation = Simulation(day)
    teller, views = Teller(simulation, local_midnight()), LiveViews(fit_of(day))
    decision = simulation.next_decision()
    assert decision is not None
    simulation.take(KEEP if decision.task is None else WAIT)
    while (decision := simulation.next_decision()) is not None:
        if decision.task is not None and decision.view.now % 1.0:
            break
        simulation.take(next(action for action, free in enumerate(decision.mask) if free))
    assert decision is not None
    assert views.build(teller(decision)).view.now == pytest.approx(decision.view.now, abs=1e-5)
