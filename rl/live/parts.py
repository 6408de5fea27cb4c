"""What the costs of a decision are made of, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rl.parameters import Base
from rl.view import ACTION_NAMES, ACTIONS, View

TIME, DEADLINE, DOLLARS, OTHERS = "time", "deadline", "machines", "others that wait"
Parts = dict[str, float]


def parts_of(base: Base, view: View, chosen: int, costs: Sequence[float]) -> dict[str, Parts]:
    """USD of the parts of what the chosen option and the cheapest other one are believed to cost.

    Costs are linear in what time, a missed deadline and a machine's hour are worth, so each part is
    what goes with its price; what is slowed down at a place counts as time.

    Args:
        base: Whose costs they are.
        view: At the decision.
        chosen: Action.
        costs: Of all actions, infinite where refused.

    Returns:
        By the option's name; none of an option without a cost.
    """
    ranked = sorted(range(ACTIONS), key=costs.__getitem__)
    other = next(action for action in ranked if action != chosen)
    return {
        ACTION_NAMES[action]: _parts(base, view, action, costs[action])
        for action in (chosen, other)
        if math.isfinite(costs[action])
    }


def _parts(base: Base, view: View, action: int, cost: float) -> Parts:
    only = [one == action for one in range(ACTIONS)]
    whole = base.costs(view, only)[action]  # alone it is compared with nothing that others lose
    free = replace(view, money=replace(view.money, price_per_hour=0.0))
    calm = replace(view, money=replace(view.money, miss=0.0))
    dollars = whole - base.costs(free, only)[action]
    deadline = whole - base.costs(calm, only)[action]
    found = {
        TIME: whole - dollars - deadline, DEADLINE: deadline, DOLLARS: dollars,
        OTHERS: cost - whole,
    }  # fmt: skip
    return {name: round(usd, 6) for name, usd in found.items()}
