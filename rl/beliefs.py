"""From drafts to the steps of a day: what is true of each, and what is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rl import critical_paths
from rl.draws import Draws
from rl.guardrails import RESERVE_GB
from rl.regime import Regime
from rl.shapes import LONGEST_SECONDS, Shape
from rl.work import KINDS, Z95, Step, Workflow, speed_bounds


@dataclass(frozen=True, slots=True)
class Cloud:
    """What a day's machines are like: times relative to the usual, seconds to start."""

    slowdown: float
    boot_seconds: float


@dataclass(frozen=True, slots=True)
class _Belief:
    memory_gb: float
    memory_mean_gb: float
    memory_p95_gb: float
    home_mean: float


def workflow_of(
    regime: Regime, draws: Draws, shape: Shape, index: int, first: int, arrival: float, cloud: Cloud
) -> Workflow:
    """A workflow from its shape.

    Args:
        regime: For the errors of belief, the deadline and what fits where.
        draws: The workflow's own.
        shape: Its steps.
        index: Its number.
        first: Number of its first step.
        arrival: Seconds after midnight.
        cloud: The day's.
    """
    sigma = draws.between(*regime.estimates.duration_sigma, 1)
    beliefs = _beliefs(regime, draws, shape, sigma)
    children: list[list[int]] = [[] for _ in shape.steps]
    for position, draft in enumerate(shape.steps):
        for parent in draft.parents:
            children[parent].append(position)
    means = [belief.home_mean for belief in beliefs]
    after = critical_paths.after(children, means)
    shortest, is_large = _shortest(regime, shape, beliefs, cloud)
    steps = tuple(
        Step(
            number=first + position,
            workflow=index,
            index=position,
            kind=draft.kind,
            parents=draft.parents,
            children=tuple(children[position]),
            memory_gb=belief.memory_gb,
            memory_mean_gb=belief.memory_mean_gb,
            memory_p95_gb=belief.memory_p95_gb,
            home_seconds=draft.seconds,
            cloud_seconds=draft.seconds * KINDS[draft.kind].slowdown * cloud.slowdown,
            home_mean=belief.home_mean,
            cloud_mean=belief.home_mean * KINDS[draft.kind].slowdown,
            duration_sigma=sigma,
            transfer_mb=draft.transfer_mb,
            private=shape.private,
            after_mean=after[position],
        )
        for position, (draft, belief) in enumerate(zip(shape.steps, beliefs, strict=True))
    )
    slack = draws.between(*regime.deadlines.slack, 3)
    grace = draws.between(*regime.deadlines.grace_seconds, 4)
    # what only a machine can hold is given the time that one takes to start
    grace += 2 * cloud.boot_seconds if is_large else 0.0
    return Workflow(
        index, arrival, shape.priority, arrival + grace + slack * shortest, steps, shortest
    )


def home_room(regime: Regime) -> float:
    """GB that a step may hold at home even when the user takes the most."""
    return regime.home.memory_gb - regime.home.user_gb[1] - RESERVE_GB


def _beliefs(regime: Regime, draws: Draws, shape: Shape, sigma: float) -> list[_Belief]:
    memory_sigma = draws.between(*regime.estimates.memory_sigma, 2)
    room = home_room(regime)
    if regime.spot.machines and not shape.private:
        room = max(room, regime.spot.memory_gb)
    found = []
    for position, draft in enumerate(shape.steps):
        memory = min(draft.memory_gb, room)
        mean = min(draws.log_normal(memory, memory_sigma, position, 5), room)
        p95 = min(mean * math.exp(Z95 * memory_sigma), room)
        home = min(draws.log_normal(draft.seconds, sigma, position, 6), 4 * LONGEST_SECONDS)
        found.append(_Belief(memory, mean, p95, home))
    return found


def _shortest(
    regime: Regime, shape: Shape, beliefs: list[_Belief], cloud: Cloud
) -> tuple[float, bool]:
    """(seconds on the longest path with each step at its faster place, whether one is large)."""
    room, fastest = home_room(regime), speed_bounds(regime)[1]
    seconds, is_large = [], False
    for draft, belief in zip(shape.steps, beliefs, strict=True):
        away = draft.seconds * KINDS[draft.kind].slowdown * cloud.slowdown / fastest
        if belief.memory_gb > room:
            is_large = True
            seconds.append(away)
        elif shape.private or not regime.spot.machines:
            seconds.append(draft.seconds)
        else:
            seconds.append(min(draft.seconds, away))
    return critical_paths.length([draft.parents for draft in shape.steps], seconds), is_large
