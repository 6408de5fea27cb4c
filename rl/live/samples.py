"""From a decision log to what off-policy evaluation takes.

A decision's reward is what its workflow costs within an hour of it: the time until it ends, a
deadline that it misses, the machine's seconds. What a step takes from others is not in it; that is
what the simulator is asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError
from rl.live.exploring import NEAR_DOLLARS, propensity_of
from rl.live.log import Log, LoggedDecision, LoggedWorkflow
from rl.live.record import STEP_ACTIONS
from rl.live.views import PRIORITIES
from rl.offpolicy import Decisions, fold_of
from rl.promotion import SHARES
from rl.regime import Costs
from rl.schema import DIGEST

WINDOW_SECONDS = 3600.0
_PRIORITY_NAMES = ("critical", "high", "normal", "low")


def samples_of(log: Log, policy: str, now: float, costs: Costs | None = None) -> Decisions:
    """Decisions for which that policy was asked, and whose hour is over.

    Args:
        log: Of the running system.
        policy: Digest of the learned policy's file.
        now: Unix seconds.
        costs: What waiting and missed deadlines are worth.

    Raises:
        DataError: there is none; the message says why.
    """
    workflows = {one.id: one for one in log.workflows}
    worth = costs or Costs()
    rows: list[tuple[LoggedDecision, Mapping[str, Any], float]] = []
    left_out: Counter[str] = Counter()
    for decision in log.decisions:
        why = _unusable(decision, policy, now, workflows)
        if why:
            left_out[why] += 1
            continue
        details = decision.details or {}
        workflow = workflows[decision.workflow_id or ""]
        reward = _reward(decision, workflow, log.fleet.price_per_hour, worth)
        rows.append((decision, details, reward))
    if not rows:
        raise DataError(
            "no logged decision can be evaluated: "
            + ("; ".join(f"{count} {why}" for why, count in left_out.most_common()) or "none")
        )
    return _decisions(rows, workflows)


def _unusable(
    decision: LoggedDecision, policy: str, now: float, workflows: Mapping[str, LoggedWorkflow]
) -> str:
    details = decision.details
    if details is None or "schema" not in details:
        return "tell nothing of what they were made from"
    if details["schema"] != DIGEST:
        return f"have the features of another schema ({str(details['schema'])[:12]})"
    if details.get("policy_hash") != policy or details.get("shadow_chosen") is None:
        return "did not ask this policy"
    if details.get("context") is None or details.get("forced") or details.get("by") == "rules":
        return "were forced, or made by the rules"
    if _missing(details):
        return "have a feature that is no number"
    if decision.at + WINDOW_SECONDS > now:
        return "are less than an hour old"
    return "" if decision.workflow_id in workflows else "belong to no workflow that is known"


def _missing(details: Mapping[str, Any]) -> bool:
    rows = [details["context"], *details["option_features"]]
    return any(value is None for row in rows for value in row)


def _reward(
    decision: LoggedDecision, workflow: LoggedWorkflow, price: float, costs: Costs
) -> float:
    weight = PRIORITIES[_PRIORITY_NAMES[workflow.priority]]
    end = math.inf if workflow.finished_at is None else workflow.finished_at
    until = decision.at + WINDOW_SECONDS
    waited = max(0.0, min(end, until) - decision.at)
    cost = costs.hour_of_priority * weight * waited / 3600.0
    deadline = workflow.deadline
    if deadline is not None and decision.at < deadline <= until and end > deadline:
        cost += costs.miss * weight
    outcome = decision.outcome or {}
    if outcome.get("place") == "spot":
        seconds = outcome.get("run_seconds") or outcome.get("seconds") or 0.0
        cost += price * min(float(seconds), WINDOW_SECONDS) / 3600.0
    return -cost


def _decisions(
    rows: Sequence[tuple[LoggedDecision, Mapping[str, Any], float]],
    workflows: Mapping[str, LoggedWorkflow],
) -> Decisions:
    learned: list[int] = []
    base: list[int] = []
    propensity: list[float] = []
    supported: list[bool] = []
    features: list[npt.NDArray[np.float64]] = []
    for decision, details, _ in rows:
        own, other = details["chosen_by_policy"], details["shadow_chosen"]
        mine, theirs = (own, other) if details["by"] == "learned" else (other, own)
        share = _share(details, workflows[decision.workflow_id or ""])
        taken = decision.chosen
        ways = [_ways(details, one) for one in (mine, theirs)]
        eps = float(details["exploration"])

        def likely(action: int, ways: Any = ways, eps: float = eps, share: float = share) -> float:
            """Of an action, whoever of the two was to decide."""
            (first, near), (second, others) = ways
            a = propensity_of(action, first, len(near), eps) if action in near else 0.0
            b = propensity_of(action, second, len(others), eps) if action in others else 0.0
            return share * a + (1.0 - share) * b

        learned.append(mine)
        base.append(theirs)
        propensity.append(likely(taken) or decision.propensity)
        supported.append(likely(mine) > 0)
        context = np.array(details["context"])
        options = np.array(details["option_features"])
        features.append(np.hstack([np.tile(context, (len(options), 1)), options]))
    return Decisions(
        features=np.array(features, dtype=np.float64)[:, :STEP_ACTIONS],
        action=np.array([decision.chosen for decision, _, _ in rows], dtype=np.int64),
        propensity=np.array(propensity),
        reward=np.array([reward for _, _, reward in rows]),
        chosen=np.array(learned, dtype=np.int64),
        base=np.array(base, dtype=np.int64),
        supported=np.array(supported, dtype=np.bool_),
        cluster=fold_of([decision.workflow_id or "" for decision, _, _ in rows]),
    )


def _share(details: Mapping[str, Any], workflow: LoggedWorkflow) -> float:
    """Of workflows of this priority for which the learned policy decided."""
    stage = details["stage"]
    if stage == "canary" and _PRIORITY_NAMES[workflow.priority] != "low":
        return 0.0
    return SHARES.get(stage, 0.0)


def _ways(details: Mapping[str, Any], chosen: int) -> tuple[int, set[int]]:
    """(a policy's choice, what could be taken in its place)."""
    costs = details["costs"]
    least = costs[chosen]
    near = {chosen}
    if least is not None:
        near |= {
            action
            for action, cost in enumerate(costs[:STEP_ACTIONS])
            if cost is not None and cost <= least + NEAR_DOLLARS
        }
    return chosen, near
