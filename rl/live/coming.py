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
        most_gb: Of them all.
    """

    seconds: list[float]
    memory_gb: list[float]
    after: list[float]
    most_gb: float


class Plans:
    """What is believed of each plan, found out once.

    Args:
        beliefs: Of steps.
    """

    def __init__(self, beliefs: LiveBeliefs) -> None:
        self._beliefs = beliefs
        self._known: WeakKeyDictionary[Plan, Ahead] = WeakKeyDictionary()

    def known(self, plan: Plan) -> Ahead | None:
        """The same as `of`; None where a fact is no number, which its own steps tell."""
        try:
            return self.of(plan)
        except DataError:
            return None

    def of(self, plan: Plan) -> Ahead:
        """What is believed of one.

        Raises:
            DataError: a fact is no number.
        """
        found = self._known.get(plan)
        if found is None:
            seconds = self._beliefs.seconds_on_path(plan)
            after = critical_paths.after(plan.dependents, seconds)
            memory = self._beliefs.memory_of(plan)
            found = self._known[plan] = Ahead(seconds, memory, after, max(memory))
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
    plans: dict[str, tuple[Plan, Ahead, dict[int, float]]] = {}
    small: set[str] = set()  # most workflows have no such step, and a decision is to be quick
    for workflow, ready, end in active:
        if workflow in small or ready is None or (plan := ready.plan) is None:
            continue
        if workflow not in plans:
            ahead = believed.known(plan)
            if ahead is None or ahead.most_gb <= room_gb:
                small.add(workflow)
                continue
            plans[workflow] = (plan, ahead, {})
        ends = plans[workflow][2]
        ends[ready.index] = max(end, ends.get(ready.index, 0.0))  # of the items of a step
    found = (_of_plan(plan, ends, ahead, room_gb) for plan, ahead, ends in plans.values())
    return min(found, default=math.inf)


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
