"""When steps that are not ready yet will be, as far as anybody can know.

From the bottom up: a step that runs ends after what it is believed to have left, at the rate it
runs at; one that waits after its believed work, as if it started now; what depends on them follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rl.sites import State, Task


def ends(tasks: Sequence[Task], left: Mapping[int, float]) -> list[float]:
    """Believed seconds from now to each step's end, of one workflow; 0 where it has ended.

    Args:
        tasks: Of the workflow, each after its parents.
        left: Of steps that run or are bound to a machine, by number: seconds to their end.
    """
    found: list[float] = []
    for task in tasks:
        if task.state is State.DONE:
            found.append(0.0)
            continue
        own = left.get(task.step.number)
        if own is None:
            start = max((found[parent] for parent in task.step.parents), default=0.0)
            own = start + task.step.home_mean * task.share
        found.append(own)
    return found


def longest_beside(task: Task, tasks: Sequence[Task], left: Mapping[int, float]) -> float:
    """Believed seconds to the workflow's end, if one of its ready steps took no time at all.

    Until then that step delays nobody: it is one of several, and another takes longer.
    """
    found = 0.0
    for other in tasks:
        if other is task or other.state is State.BLOCKED or other.state is State.DONE:
            continue
        step = other.step
        own = left.get(step.number, step.home_mean * other.share)
        found = max(found, own + step.after_mean)
    return found


def first_large(tasks: Sequence[Task], left: Mapping[int, float], room_gb: float) -> float:
    """Believed seconds until a step of a workflow that needs more memory is ready.

    Args:
        tasks: Of the workflow.
        left: See `ends`.
        room_gb: What may be held at home.

    Returns:
        Infinite if it has none that is still to be ready.
    """
    large = [
        task for task in tasks if task.state is State.BLOCKED and task.step.memory_p95_gb > room_gb
    ]
    if not large:
        return math.inf
    known = ends(tasks, left)
    return min(max(known[parent] for parent in task.step.parents) for task in large)
