"""Decision logs made by hand, whose truth is known."""

from __future__ import annotations

import numpy as np

from rl.live.log import Log, LoggedDecision, LoggedFleet, LoggedStep, LoggedWorkflow

BEGIN = 1_800_000_000.0
DAY = 86_400.0
PRICE = 0.0638


def decision_of(number: int = 0, **fields: object) -> LoggedDecision:
    """A decision of the tuned policy between home and a machine."""
    values = {
        "id": f"d{number}", "at": BEGIN + number, "policy": "tuned greedy", "chosen": 0,
        "propensity": 0.97, "options": ("home", "machine 0"), "mask": (True, True),
        "workflow_id": f"wf-{number}", "step": "s", "attempt": 1,
        "features": {"deadline_in": None, "waited": 0.0},
        "outcome": {"outcome": "ok", "seconds": 1.0}, "details": {"by": "tuned"},
    }  # fmt: skip
    return LoggedDecision(**{**values, **fields})  # type: ignore[arg-type]


def log_of(
    days: int = 21,
    *,
    daily: int = 12,
    seconds: float = 100.0,
    sigma: float = 0.3,
    later: float = 1.0,
    seed: int = 0,
) -> Log:
    """Workflows of two steps, the second in the cloud in a third of them; one at a time.

    Args:
        days: How many.
        daily: Workflows a day.
        seconds: Median of the function `f` at home; `g` takes half of it.
        sigma: Deviation of the logarithm.
        later: By which durations are multiplied in the last week.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    workflows, intervals = [], []
    for day in range(days):
        slow = later if day >= days - 7 else 1.0
        for number in range(daily):
            at = BEGIN + day * DAY + number * (DAY / daily)
            away = number % 3 == 0
            first = slow * seconds * float(np.exp(sigma * random.standard_normal()))
            second = slow * 0.5 * seconds * float(np.exp(sigma * random.standard_normal()))
            second *= 1.3 if away else 1.0
            boot = 90.0 if away else 0.0
            one = LoggedStep("a", "function", "f", (), "any", 1.0, seconds, at, at + first, first,
                             "local", "head", 0.8)  # fmt: skip
            start = at + first + boot
            place = "spot" if away else "local"
            two = LoggedStep("b", "function", "g", (0,), "any", 1.0, None, start, start + second,
                             second, place, "n1" if away else "head", 0.5)  # fmt: skip
            end = start + second
            if away:
                intervals.append((at + first, end + 900.0))
            deadline = at + 8 * seconds
            workflows.append(
                LoggedWorkflow(
                    f"wf-{day}-{number}", "flow", at, "completed", 2, (one, two), end, deadline
                )
            )
    decisions = tuple(decision_of(number) for number in range(3))
    boots = (90.0,) * len(intervals)
    return Log(decisions, tuple(workflows), LoggedFleet(tuple(intervals), 2, boots, PRICE))
