"""What the decision log keeps of a decision, and how it is told to people."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.routing import LOCAL, SPOT
from actors.situation import WAIT as WAITS
from actors.situation import Placement, Situation
from rl.guardrails import Limits
from rl.live.exploring import Drawn
from rl.live.views import LiveView
from rl.schema import DIGEST
from rl.view import ACTION_NAMES, BUY, FIRST_MACHINE, HOME, KEEP, WAIT

STEP_ACTIONS = KEEP
"""A step's actions come before those about machines."""
FORMAT = 1
_AGAIN_SECONDS = 60.0


@dataclass(slots=True)
class Verdict:
    """A decision as it came about.

    Attributes:
        by: `learned`, `tuned` (whichever that policy is) or `rules`.
        policy: Its name, for the log.
        chosen: By the policy, before anything was tried.
        costs: USD of each action; infinite where refused.
        shadow: What the policy in the shadow would have done; None: there is none.
        fallback: Why it is not the policy that should have decided; empty: it is.
        outside: Why the learned policy kept silent, which in the shadow makes no difference.
        scores: Of the learned policy; empty: it weighed nothing.
        context: Features of the view; None: nobody asked for them.
        options: Features of each action, likewise.
        effects: Of each action on others, see `rl.effects`; None: nothing was learned of them.
        schema: What the features are; see `rl.schema`.
    """

    by: str
    policy: str
    chosen: int
    costs: Sequence[float]
    shadow: int | None = None
    fallback: str = ""
    outside: str = ""
    scores: Sequence[float] = ()
    context: npt.NDArray[np.float32] | None = None
    options: npt.NDArray[np.float32] | None = None
    effects: npt.NDArray[np.float64] | None = None
    schema: str = DIGEST


def placement_of(
    situation: Situation, live: LiveView, verdict: Verdict, drawn: Drawn, facts: dict[str, Any]
) -> Placement:
    """What the orchestrator is told.

    Args:
        situation: That was decided on.
        live: What was seen of it.
        verdict: Of the policy.
        drawn: What is done.
        facts: That belong into the record beside: stage, digests.
    """
    place, node = _target(live, drawn.action)
    since = situation.step.ready.since
    again = max(since + Limits().starvation_seconds + 1.0, situation.at + _AGAIN_SECONDS)
    return Placement(
        place=place,
        node=node,
        ask_again_at=again if place == WAITS else None,
        index=drawn.action,
        options=tuple(
            (ACTION_NAMES[action], live.reasons[action] is None) for action in range(STEP_ACTIONS)
        ),
        propensity=drawn.propensity,
        reasons=_reasons(live, verdict, drawn),
        policy=verdict.policy,
        features=_numbers(live),
        details=_details(situation, live, verdict, drawn) | facts,
    )


def _target(live: LiveView, action: int) -> tuple[str, str]:
    if action == HOME:
        return LOCAL, ""
    if action == WAIT:
        return WAITS, ""
    if action == BUY:
        return SPOT, ""
    return SPOT, live.nodes[action - FIRST_MACHINE]


def _reasons(live: LiveView, verdict: Verdict, drawn: Drawn) -> tuple[str, ...]:
    name, cost = ACTION_NAMES[drawn.action], verdict.costs[drawn.action]
    found = [f"{name}, by {verdict.policy}"]
    if math.isfinite(cost):
        found[0] += f": {cost:.4f} USD"
    if drawn.action != verdict.chosen:
        found.append(f"tried instead of {ACTION_NAMES[verdict.chosen]}, which costs as much")
    if live.forced:
        found.append(f"allowed although {live.forced}: there was no other place for an hour")
    if verdict.fallback:
        found.append(verdict.fallback)
    return tuple(found)


def _numbers(live: LiveView) -> dict[str, float]:
    """The figures that people ask for first."""
    view, step = live.view, live.view.step
    assert step is not None
    return {
        "memory_p95_gb": round(step.memory_p95_gb, 4),
        "home_seconds": round(step.home_seconds, 3),
        "cloud_seconds": round(step.cloud_seconds, 3),
        "after_seconds": round(step.after_seconds, 3),
        "deadline_in": round(step.deadline_in, 1),
        "priority": step.priority,
        "waited": round(step.waited, 3),
        "home_free_gb": round(view.home.free_gb, 3),
        "home_runs": float(len(view.home.runs)),
        "machines": float(sum(one is not None for one in view.machines)),
        "waiting": float(view.waiting),
        "day_left": round(view.money.day_left, 4),
        "month_left": round(view.money.month_left, 4),
        "hazard_per_hour": round(view.money.hazard_per_hour, 5),
    }


def _details(
    situation: Situation, live: LiveView, verdict: Verdict, drawn: Drawn
) -> dict[str, Any]:
    shadow = verdict.shadow
    return {
        "format": FORMAT,
        "schema": verdict.schema,
        "ts_mono": round(time.monotonic(), 6),
        "by": verdict.by,
        "chosen_by_policy": verdict.chosen,
        "eligible": list(drawn.eligible),
        "shadow": None if shadow is None else ACTION_NAMES[shadow],
        "shadow_chosen": shadow,
        "fallback": verdict.fallback,
        "outside": verdict.outside,
        "forced": live.forced,
        "costs": _rounded(verdict.costs),
        "masked": {
            ACTION_NAMES[action]: reason
            for action, reason in enumerate(live.reasons[:STEP_ACTIONS])
            if reason is not None
        },
        "scores": _rounded(verdict.scores),
        "context": None if verdict.context is None else _told(verdict.context),
        "option_features": (
            None if verdict.options is None else _told(verdict.options[:STEP_ACTIONS])
        ),
        "effects": None if verdict.effects is None else _told(verdict.effects[:STEP_ACTIONS]),
        "target": situation.step.target,
        "item": situation.step.item,
        "nodes": list(live.nodes),
    }


def _rounded(values: Sequence[float]) -> list[float | None]:
    """Of a step's actions, or features; JSON has no infinity and none of what is no number."""
    return [round(value, 6) if math.isfinite(value) else None for value in values]


def _told(features: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> list[Any]:
    """The same of an array, of which there are hundreds of numbers a decision."""
    rounded: list[Any] = np.round(features.astype(np.float64), 6).tolist()
    if np.isfinite(features).all():
        return rounded
    return [_rounded(one) if isinstance(one, list) else _rounded([one])[0] for one in rounded]
