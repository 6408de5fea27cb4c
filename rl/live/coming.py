"""Steps that are not ready yet, as far as the router can tell: from plans and what is under way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from actors.situation import Plan, Ready
from ironcliw.errors import DataError
from rl import critical_paths
from rl.live.beliefs import LiveBeliefs


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is believed of the steps of a plan.

    Attributes:
        seconds: Of each at home.
        memory_gb: That each stays below in 19 of 20 cases; 0 of those that find their own places.
        after: Seconds from the end of each to the workflow's.
    """

    seconds: list[float]
    memory_gb: list[float]
    after: list[float]


class Plans:
    """What is believed of each plan, found out once.

    Args:
        beliefs: Of steps.
    """

    def __init__(self, beliefs: LiveBeliefs) -> None:
        self._beliefs = beliefs
        self._known: WeakKeyDictionary[Plan, Ahead] = WeakKeyDictionary()

    def of(self, plan: Plan) -> Ahead:
        """What is believed of one."""
        found = self._known.get(plan)
        if found is None:
            seconds = self._beliefs.seconds_on_path(plan)
            after = critical_paths.after(plan.dependents, seconds)
            found = self._known[plan] = Ahead(seconds, self._beliefs.memory_of(plan), after)
        return found


Active = tuple[str, Ready | None, float]
"""A step that runs or waits: its workflow, its place in it, and believed seconds to its end."""


def first_large(active: Iterable[Active], believed: Plans, room_gb: float) -> float:
    """Believed seconds until a step that needs more memory is ready; infinite if none is known.

    As `rl.upcoming.first_large` has it. Where a step waits for one that the router does not know
    of, such as an agent's, only those that it knows count.

    Args:
        active: Of all workflows.
        believed: Of plans.
        room_gb: What may be held at home.
    """
    plans: dict[str, tuple[Plan, dict[int, float]]] = {}
    for workflow, ready, end in active:
        if ready is None or ready.plan is None:
            continue
        _, ends = plans.setdefault(workflow, (ready.plan, {}))
        ends[ready.index] = max(end, ends.get(ready.index, 0.0))  # of the items of a step
    first = math.inf
    for plan, ends in plans.values():
        try:
            first = min(first, _of_plan(plan, ends, believed.of(plan), room_gb))
        except DataError:
            continue  # a fact is no number: that is told when its own steps are asked about
    return first


def _of_plan(plan: Plan, active: Mapping[int, float], ahead: Ahead, room_gb: float) -> float:
    starts: dict[int, float] = {}
    first = math.inf
    for index in range(min(active), len(plan.targets)):
        if index in active:
            end = active[index]
        elif index in starts:
            if ahead.memory_gb[index] > room_gb:
                first = min(first, starts[index])
            end = starts[index] + ahead.seconds[index]
        else:
            continue  # it has ended, or waits for nothing that is known
        for after in plan.dependents[index]:
            starts[after] = max(starts.get(after, 0.0), end)
    return first
