"""Now and then another option that costs about as much: what off-policy evaluation lives on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rl.view import WAIT

NEAR_DOLLARS = 0.01
"""Options that are believed to cost so much more than the chosen one may be tried."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is done, and how likely that was.

    Attributes:
        action: Taken.
        propensity: With which it is taken, whenever this view is met.
        eligible: Actions that could have been taken; the policy's own choice among them.
    """

    action: int
    propensity: float
    eligible: tuple[int, ...]


def explore(
    chosen: int, costs: Sequence[float], mask: Sequence[bool], share: float, key: str
) -> Drawn:
    """The policy's choice, or in a share of all cases one of those that cost about as much.

    Args:
        chosen: By the policy.
        costs: USD of each action; infinite or no number where it is not to be tried.
        mask: True where an action is allowed.
        share: Of cases in which any of them is drawn, from 0 to 1.
        key: Of the case: asked again about the same, the same is drawn, so that a step that waits
            is not drawn anew at each event until it does not.
    """
    allowed = [cost if free else None for cost, free in zip(costs, mask, strict=True)]
    eligible = near_of(chosen, allowed)
    if len(eligible) < 2 or share <= 0:
        return Drawn(chosen, 1.0, eligible)
    first, second = _uniforms(f"{key}/{chosen}")
    action = eligible[int(second * len(eligible))] if first < share else chosen
    return Drawn(action, propensity_of(action, chosen, len(eligible), share), eligible)


def near_of(chosen: int, costs: Sequence[float | None]) -> tuple[int, ...]:
    """What may be taken in a choice's place, itself included.

    To wait is never tried: a step would wait until something happens, which no belief bounds.

    Args:
        chosen: By the policy.
        costs: USD of each action; None, infinite or no number where it is not to be tried.
    """
    least = costs[chosen]
    most = -math.inf if least is None else least + NEAR_DOLLARS
    return tuple(
        action
        for action, cost in enumerate(costs)
        if action == chosen
        or (cost is not None and math.isfinite(cost) and cost <= most and action != WAIT)
    )


def propensity_of(action: int, chosen: int, eligible: int, share: float) -> float:
    """With which an eligible action is taken, where the policy chose another or the same."""
    if eligible < 2:
        return 1.0 if action == chosen else 0.0
    return share / eligible + (1.0 - share if action == chosen else 0.0)


def _uniforms(key: str) -> tuple[float, float]:
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64, int.from_bytes(digest[8:16], "big") / 2**64
