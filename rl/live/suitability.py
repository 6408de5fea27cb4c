"""Whether a policy has anything to say, and was trained for a head like this one.

The head's memory and its caps on money are the same in all views of a head, so where they lie
beyond training's no view is like training's, and the learned policy never decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl.features import CLIP, CONTEXT
from rl.neural import SLACK
from rl.policy_file import PolicyFile

LEAST_DAYS = 100
"""Of each regime; anything on fewer simulated days is noise."""


def unproven(policy: PolicyFile) -> str:
    """Why little is to be expected of a policy, in words; empty: it was confirmed on fresh days."""
    if policy.is_silent:
        return (
            "this policy decides as its base does: nothing that it learned was better beyond doubt "
            "on fresh days; no stage will find that it saves anything"
        )
    if policy.training.get("is_confirmed") is not True:
        return (
            "nobody has confirmed on fresh days that this policy costs less than its base; "
            "`python -m rl evaluate --policy` compares them"
        )
    days = (policy.training.get("confirmation") or {}).get("days", 0)
    if days < LEAST_DAYS:
        return f"this policy was confirmed on {days} fresh days of each regime, which says little"
    return ""


def beyond_training(policy: PolicyFile, known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What of a head the policy has not seen, in words; empty: nothing.

    Args:
        policy: To be asked on that head.
        known: Of the head, by section of a regime: `home` and `costs`.
    """
    home, costs = known["home"], known["costs"]
    low, high = (home["memory_gb"] - user for user in reversed(home["user_gb"]))
    day = min(costs["day_dollars"], costs["month_dollars"])
    figures = {
        "home_room": (low / 16.0, high / 16.0, 16.0, "GB free at home"),
        "day_left": (day, day, 1.0, "USD a day"),
        "month_left": (costs["month_dollars"] / 12.0,) * 2 + (12.0, "USD a month"),
    }
    found = []
    for name, (least, most, unit, what) in figures.items():
        at = CONTEXT.index(name)
        lowest, highest = float(policy.guard.low[at]), float(policy.guard.high[at])
        room = SLACK * (highest - lowest) + 1e-3
        if min(least, CLIP) > highest + room or min(most, CLIP) < lowest - room:
            found.append(
                f"{least * unit:.4g} to {most * unit:.4g} {what}, "
                f"{lowest * unit:.4g} to {highest * unit:.4g} in training"
            )
    return found
