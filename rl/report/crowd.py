"""A crowded head, to time decisions of the running system with: no cluster is needed for it."""

from __future__ import annotations

from actors.situation import (
    HomeFacts,
    MachineFacts,
    MoneyFacts,
    Plan,
    Ready,
    RunFacts,
    Situation,
    StepFacts,
)

BEGIN = 1_800_000_000.0
"""Unix seconds of the first situation."""
OTHERS = 30
_AT_HOME, _MACHINES = 6, 3
_SIZES_GB = (1.0, 2.5, 4.0)
_PLAN = Plan(("f", "g"), (100.0, 50.0), ((1,), ()))


def crowded(number: int, others: int = OTHERS) -> Situation:
    """Three machines that work, six steps at home, and so many that wait beside the step.

    Args:
        number: Of the situation: each is of another moment, with nothing that was seen before.
        others: That wait.
    """
    at = BEGIN + number
    runs = tuple(
        RunFacts(f"f{index}", "normal", 1.0, 300.0, at - 20.0 * index) for index in range(_AT_HOME)
    )
    machines = tuple(
        MachineFacts(f"n{index}", "ready", at - 600.0, 30.0, 20.0 - index, 4.0, runs[index:])
        for index in range(_MACHINES)
    )
    steps = tuple(_step(index, at) for index in range(others + 1))
    return Situation(
        at=at,
        age=1.0,
        may_wait=True,
        step=steps[number % len(steps)],
        home=HomeFacts(64.0, 30.0, 8.0, runs, {}),
        machines=machines,
        money=MoneyFacts(0.0638, day_spent=0.1, month_spent=1.0, day_cap=0.4, month_cap=12.0),
        has_cloud=True,
        most_machines=_MACHINES + 1,
        waiting=len(steps),
        others=steps,
    )


def _step(index: int, at: float) -> StepFacts:
    return StepFacts(
        workflow_id=f"w{index // 3}",
        step=f"s{index}",
        item=None,
        attempt=1,
        target=f"g{index % 7}",
        place="any",
        priority="normal",
        memory_gb=_SIZES_GB[index % 3],
        expected_seconds=30.0 + 10.0 * index,
        deadline=at + 300.0 + 40.0 * index,
        ready=Ready(at - 1.0, _PLAN, 0),
    )
