"""What views of training look like: the ranges and the distance beyond which a policy is silent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ironcliw.errors import DataError
from rl.features import Floats, features
from rl.learning.start import guard_of as what_is_near
from rl.neural import weighed
from rl.parameters import Base, Parameters, policy_of
from rl.policy_file import Guard
from rl.simulator import Simulation
from rl.work import Day


def guard_of(days: Sequence[Day], parameters: Parameters, reach: float, machines: bool) -> Guard:
    """From the decisions of days that the base runs.

    Args:
        days: Of training.
        parameters: Of the base.
        reach: USD over the cheapest; options beyond it are not weighed.
        machines: Whether decisions about machines are weighed.

    Raises:
        DataError: the days have no decision with a choice.
    """
    contexts, options = _seen(days, policy_of(parameters), reach, machines)
    if not contexts:
        raise DataError(f"{len(days)} days have no decision with a choice; give more days")
    return what_is_near(np.array(contexts), np.concatenate(options))


def _seen(
    days: Sequence[Day], policy: Base, reach: float, machines: bool
) -> tuple[list[Floats], list[Floats]]:
    """Features of the context and of the options that are weighed, of each decision."""
    contexts: list[Floats] = []
    options: list[Floats] = []
    for day in days:
        simulation = Simulation(day, order=policy.order)
        while (decision := simulation.next_decision()) is not None:
            view, mask = decision.view, decision.mask
            costs = policy.costs(view, mask)
            found = weighed(costs, view, reach, machines)
            if len(found) > 1:
                context, of_options = features(view, mask, costs)
                contexts.append(context)
                options.append(of_options[found])
            simulation.take(policy.choose(view, mask), policy.name)
    return contexts, options
