"""The parts of what options are believed to cost: they add up, and each goes with its price."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rl.live.parts import DEADLINE, DOLLARS, OTHERS, TIME, parts_of
from rl.parameters import Base, load_parameters, policy_of
from rl.queue_aware import QueueAware
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.simulator import Simulation
from rl.view import ACTION_NAMES
from rl.workload import make_day

BUSY = load_regime(Path(__file__).parents[4] / "rl" / "regimes" / "busy.toml")


@pytest.mark.parametrize(
    "base", [policy_of(load_parameters()), QueueAware(QueueParameters(look_ahead=0.5))]
)
def test_parts_add_up_over_a_day(base: Base) -> None:
    simulation = Simulation(make_day(BUSY, 3, "validation", 1), order=base.order)
    seen, both = dict.fromkeys((TIME, DEADLINE, DOLLARS, OTHERS), 0), 0
    while (decision := simulation.next_decision()) is not None:
        view, costs = decision.view, base.costs(decision.view, decision.mask)
        chosen = costs.index(min(costs))
        if view.step is not None:
            found = parts_of(base, view, chosen, costs)
            assert next(iter(found)) == ACTION_NAMES[chosen]
            both += len(found) == 2
            for name, parts in found.items():
                whole = costs[ACTION_NAMES.index(name)]
                assert sum(parts.values()) == pytest.approx(whole, abs=5e-6)
                assert min(parts[TIME], parts[DEADLINE], parts[OTHERS]) >= -1e-6
                assert name != "home" or abs(parts[DOLLARS]) < 1e-6
                seen = {part: seen[part] + (parts[part] > 1e-5) for part in seen}
        simulation.take(chosen)
    assert both > 20 and min(seen[TIME], seen[DEADLINE], seen[DOLLARS]) > 10
    assert (seen[OTHERS] > 0) == isinstance(base, QueueAware)


def test_a_part_goes_with_its_price() -> None:
    base = policy_of(load_parameters())
    simulation = Simulation(make_day(BUSY, 3, "validation", 1), order=base.order)
    decision = simulation.next_decision()
    while decision is not None and decision.view.step is None:
        simulation.take(base.choose(decision.view, decision.mask))
        decision = simulation.next_decision()
    assert decision is not None
    view, mask = decision.view, decision.mask
    dear = replace(view, money=replace(view.money, miss=3.0 * view.money.miss))
    plain, other = (
        parts_of(base, one, costs.index(min(costs)), costs)
        for one in (view, dear)
        for costs in [base.costs(one, mask)]
    )
    name = next(iter(plain))
    assert plain[name][DEADLINE] > 0
    assert other[name][DEADLINE] == pytest.approx(3.0 * plain[name][DEADLINE], abs=3e-6)
    assert other[name][TIME] == pytest.approx(plain[name][TIME], abs=3e-6)
