"""Situations of the running system, and policy files, made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

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
from rl.features import CONTEXT, OPTION
from rl.parameters import load_parameters
from rl.policy_file import Guard, PolicyFile, save_policy

NOW = 1_800_000_000.0
MACHINE = MachineFacts("n1", "ready", NOW - 600, 30.0, 28.0, 4.0, idle_since=NOW - 60)
MONEY = MoneyFacts(0.0638, day_spent=0.1, month_spent=1.0, day_cap=0.4, month_cap=12.0)
PLAN = Plan(("f", "g"), (100.0, 50.0), ((1,), ()))


def run_of(target: str = "f", **fields: Any) -> RunFacts:
    """A step that has a place for two minutes."""
    return RunFacts(
        **{"target": target, "priority": "normal", "memory_gb": 1.0, "expected_seconds": 300.0,
           "since": NOW - 120.0, **fields}
    )  # fmt: skip


def step_of(**fields: Any) -> StepFacts:
    """A step of 2 GB and 100 s that just became ready."""
    values = {
        "workflow_id": "wf-1", "step": "s", "item": None, "attempt": 1, "target": "f",
        "place": "any", "priority": "normal", "memory_gb": 2.0, "expected_seconds": 100.0,
        "deadline": NOW + 1000.0, "ready": Ready(NOW - 1.0, PLAN, 0),
    }  # fmt: skip
    return StepFacts(**{**values, **fields})


def situation_of(**fields: Any) -> Situation:
    """A head of 16 GB, 10 of them free, and one idle machine; `step` may be a dict of changes."""
    step = fields.pop("step", {})
    values: dict[str, Any] = {
        "at": NOW,
        "age": 1.0,
        "may_wait": True,
        "step": step if isinstance(step, StepFacts) else step_of(**step),
        "home": HomeFacts(16.0, 10.0, 8.0),
        "machines": (MACHINE,),
        "money": MONEY,
        "has_cloud": True,
        "most_machines": 2,
    }
    return Situation(**{**values, **fields})


def policy_of(
    bias: float = 0.0, *, favourite: int | None = None, reach: float = 1.0, wide: bool = True
) -> PolicyFile:
    """A policy of one layer that adds `bias` to one action's score.

    Args:
        bias: In scores.
        favourite: The action; None: none, it is the expected-cost policy.
        reach: See `PolicyFile`.
        wide: Whether all views are like those of its training; else none is.
    """
    width, inputs = len(CONTEXT), len(CONTEXT) + len(OPTION)
    weight = np.zeros((inputs, 1), dtype=np.float32)
    if favourite is not None:
        weight[width + favourite, 0] = bias
    bound = np.full(inputs, 1e6 if wide else 1e-6, dtype=np.float32)
    guard = Guard(
        low=-bound,
        high=bound,
        mean=np.zeros(width, dtype=np.float32),
        precision=np.zeros((width, width), dtype=np.float32),
        limit=1.0,
    )
    return PolicyFile(
        layers=((weight, np.zeros(1, dtype=np.float32)),),
        guard=guard,
        tau=0.01,
        margin=0.0,
        reach=reach,
        parameters=load_parameters(),
    )


def install(folder: Path, policy: PolicyFile) -> str:
    """Put a policy where the router of that state directory looks for it; its digest."""
    from rl.policy import policy_path

    draft = folder / "draft.npz"
    saved = save_policy(draft, policy)
    target = policy_path(folder, saved.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(target)
    return saved.digest


def with_machines(*machines: MachineFacts, **fields: Any) -> Situation:
    """A situation with those machines."""
    return replace(situation_of(**fields), machines=machines)
