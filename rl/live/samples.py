"""From a decision log to what off-policy evaluation takes.

A decision's reward is what its workflow costs within an hour of it: the time until it ends, a
deadline that it misses, and what it is to pay of a machine, its start and its idle time included
(`rl.live.machine_costs`). Who waits pays for where the wait ended. What a step takes from others is
not in it; that is what the simulator is asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError
from rl.live.beliefs import PRIORITIES
from rl.live.exploring import near_of, propensity_of
from rl.live.log import Log, LoggedDecision, LoggedWorkflow
from rl.live.machine_costs import last_decisions, machine_seconds
from rl.live.record import STEP_ACTIONS
from rl.offpolicy import Decisions, fold_of
from rl.promotion import SHARES, Standing
from rl.regime import Costs
from rl.schema import DIGEST
from rl.view_parts import PRIOR_BOOT_SECONDS

WINDOW_SECONDS = 3600.0
_PRIORITY_NAMES = ("critical", "high", "normal", "low")


TAIL_SECONDS = 900.0
"""That machines are kept without work, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a policy has done in the stage that it has.

    Attributes:
        asked: Decisions for which it was asked.
        workflows: For which it has decided itself, by views like those of its training.
    """

    asked: int
    workflows: int


def exposure_of(log: Log, standing: Standing) -> Exposure:
    """Of the policy of a standing in its stage; what others decided meanwhile is none."""
    rows = [one.details for one in in_stage(log, standing).decisions if one.details]
    asked = sum(one.get("shadow_chosen") is not None for one in rows)
    workflows = {
        one.workflow_id
        for one in in_stage(log, standing).decisions
        if one.details and one.details.get("by") == "learned" and not one.details.get("fallback")
    }
    return Exposure(asked, len(workflows))


def in_stage(log: Log, standing: Standing) -> Log:
    """Without the decisions of other stages and policies."""
    return Log(
        tuple(
            one
            for one in log.decisions
            if one.at >= standing.since
            and (one.details or {}).get("stage") == standing.stage
            and (one.details or {}).get("policy_hash") == standing.policy
        ),
        log.workflows,
        log.fleet,
    )


def samples_of(
    log: Log,
    policy: str,
    now: float,
    costs: Costs | None = None,
    tail_seconds: float = TAIL_SECONDS,
    schema: str = DIGEST,
) -> Decisions:
    """Decisions for which that policy was asked, and whose hour is over.

    Args:
        log: Of the running system.
        policy: Digest of the learned policy's file.
        now: Unix seconds.
        costs: What waiting and missed deadlines are worth.
        tail_seconds: That machines are kept without work.
        schema: Of that policy's features.

    Raises:
        DataError: there is none; the message says why.
    """
    workflows = {one.id: one for one in log.workflows}
    worth = costs or Costs()
    dollars = _machine_dollars(log, tail_seconds)
    rows: list[tuple[LoggedDecision, Mapping[str, Any], float]] = []
    left_out: Counter[str] = Counter()
    for decision in log.decisions:
        why = _unusable(decision, policy, schema, now, workflows)
        if why:
            left_out[why] += 1
            continue
        details = decision.details or {}
        workflow = workflows[decision.workflow_id or ""]
        reward = _reward(decision, workflow, worth) - dollars.get(decision.id, 0.0)
        rows.append((decision, details, reward))
    if not rows:
        raise DataError(
            "no logged decision can be evaluated: "
            + ("; ".join(f"{count} {why}" for why, count in left_out.most_common()) or "none")
        )
    return _decisions(rows, workflows)


def _unusable(
    decision: LoggedDecision,
    policy: str,
    schema: str,
    now: float,
    workflows: Mapping[str, LoggedWorkflow],
) -> str:
    details = decision.details
    if details is None or "schema" not in details:
        return "tell nothing of what they were made from"
    if details["schema"] != schema:
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


def _machine_dollars(log: Log, tail_seconds: float) -> dict[str, float]:
    """USD of machines within the hour, by the decision's id; who waits pays for what followed."""
    boots, price = log.fleet.boots, log.fleet.price_per_hour
    boot = fmean(boots) if boots else PRIOR_BOOT_SECONDS
    seconds = machine_seconds(log.decisions, boot, tail_seconds, WINDOW_SECONDS)
    ends = last_decisions(log.decisions)
    for one in log.decisions:
        end = ends.get(one.id)
        if end is not None and end.at <= one.at + WINDOW_SECONDS:
            seconds[one.id] = seconds.get(end.id, 0.0)
    return {id_: one / 3600.0 * price for id_, one in seconds.items()}


def _reward(decision: LoggedDecision, workflow: LoggedWorkflow, costs: Costs) -> float:
    """Without machines."""
    weight = PRIORITIES[_PRIORITY_NAMES[workflow.priority]]
    end = math.inf if workflow.finished_at is None else workflow.finished_at
    until = decision.at + WINDOW_SECONDS
    waited = max(0.0, min(end, until) - decision.at)
    cost = costs.hour_of_priority * weight * waited / 3600.0
    deadline = workflow.deadline
    if deadline is not None and decision.at < deadline <= until and end > deadline:
        cost += costs.miss * weight
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
        supported.append(likely(mine) > 0 and likely(theirs) > 0)
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


def _ways(details: Mapping[str, Any], chosen: int) -> tuple[int, tuple[int, ...]]:
    """(a policy's choice, what could be taken in its place)."""
    return chosen, near_of(chosen, details["costs"][:STEP_ACTIONS])
