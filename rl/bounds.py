"""A lower bound on what any policy can make of a day, proven, not searched.

Every workflow is given the whole cluster: no step waits for a place, a start, a model or another
workflow, nothing is lost, machines are the fastest there are. Of machines it pays the share of
memory or cores that its steps need, as if others filled the rest. Any schedule of the simulator
costs at least that:

- a step's time at a place is at least its work there, since rates are at most 1;
- over a day, machines are paid for at least as long as the steps' memory (their cores) would fill
  one after the other: T >= sum(seconds * gb / machine gb) and T >= sum(seconds * cores / machine
  cores), so T is at least every mixture of the two;
- given the mixture, the cost falls apart into workflows, and each is minimised over its placements;
- a step that goes on where it was may work in two places, part away until its machine is taken
  back and part at home. It takes at least the faster place's time and pays at least nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from rl import critical_paths
from rl.work import KINDS, Day, Step, Workflow, speed_bounds

HOUR = 3600.0
MIXTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_FREE = 10  # steps of a workflow whose every placement is tried out


def lower_bound(day: Day) -> float:
    """USD that the day costs at least, whatever is decided."""
    return max(
        sum(_of_workflow(day, workflow, mixture) for workflow in day.workflows)
        for mixture in MIXTURES
    )


def _of_workflow(day: Day, workflow: Workflow, mixture: float) -> float:
    regime = day.regime
    least_user = min(gb for _, gb in day.user_gb)
    # what runs out of memory is ended only beyond the swap
    room = regime.home.memory_gb + regime.home.swap_gb - least_user
    fastest = speed_bounds(regime)[1]
    home = [step.home_seconds for step in workflow.steps]
    away = [
        step.cloud_seconds / fastest + step.transfer_mb / day.megabytes_per_second
        for step in workflow.steps
    ]
    dollars = [
        _share(day, step, mixture) * away[index] / HOUR * regime.spot.dollars_per_hour
        for index, step in enumerate(workflow.steps)
    ]
    places: list[tuple[bool, ...]] = []  # of each step, whether it may be away
    for index, step in enumerate(workflow.steps):
        if step.memory_gb > room and not step.private:
            places.append((True,))
        elif step.private or away[index] >= home[index] or regime.spot.machines == 0:
            places.append((False,))  # at home it is faster and free, as a part of it is
        elif KINDS[step.kind].checkpointable:
            # below whatever share of it is away: as if it ran at home, as fast as away
            home[index] = away[index]
            places.append((False,))
        else:
            places.append((False, True))
    return _cheapest(day, workflow, home, away, dollars, places)


def _share(day: Day, step: Step, mixture: float) -> float:
    spot = day.regime.spot
    memory = step.memory_gb / spot.memory_gb
    cores = min(1.0, KINDS[step.kind].cores / spot.cores)
    return mixture * memory + (1.0 - mixture) * cores


def _cheapest(
    day: Day,
    workflow: Workflow,
    home: Sequence[float],
    away: Sequence[float],
    dollars: Sequence[float],
    places: Sequence[tuple[bool, ...]],
) -> float:
    parents = [step.parents for step in workflow.steps]
    free = sum(len(choice) > 1 for choice in places)
    if free > _MOST_FREE:
        # the faster place's time and the cheaper one's money: below every placement
        seconds = [
            min(away[index] if is_away else home[index] for is_away in choice)
            for index, choice in enumerate(places)
        ]
        paid = sum(dollars[index] for index, choice in enumerate(places) if choice == (True,))
        return _time_cost(day, workflow, critical_paths.length(parents, seconds)) + paid
    best = float("inf")
    for placement in product(*places):
        seconds = [
            away[index] if is_away else home[index] for index, is_away in enumerate(placement)
        ]
        paid = sum(dollars[index] for index, is_away in enumerate(placement) if is_away)
        flow = critical_paths.length(parents, seconds)
        best = min(best, _time_cost(day, workflow, flow) + paid)
    return best


def _time_cost(day: Day, workflow: Workflow, flow: float) -> float:
    """Of a workflow that takes so long, if the simulation does not end before."""
    costs = day.regime.costs
    ends = workflow.arrival + flow
    missed = workflow.deadline < min(ends, day.until)
    waited = min(ends, day.until) - workflow.arrival
    return workflow.priority * (costs.hour_of_priority * waited / HOUR + missed * costs.miss)
