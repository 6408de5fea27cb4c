"""Trains a policy: labels under the policy so far, a network fitted to them, again; then PPO.

Each round improves a policy by one step: what every option of a decision costs when that policy
decides the rest (`labels`), learned as a function of what can be seen (`network`). It is policy
iteration by rollouts (Bertsekas, Tsitsiklis, Wu 1997), begun at the expected-cost policy. Then
MaskablePPO goes on from the best of the rounds. What is kept is chosen on days of validation, the
expected-cost policy among it: a network that adds nothing there gets a margin that it never passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rl.learning.days import check_regimes, training_days, validation_days
from rl.learning.labels import Label, Labels, collect, stacked
from rl.learning.network import averaged, fit
from rl.learning.plan import Training
from rl.learning.selection import Costs, Days, Verdict, guard_of, judged, measured
from rl.neural import Learned
from rl.parameters import Parameters, policy_of
from rl.policy_file import PolicyFile
from rl.regime import Regime
from rl.simulator import Policy

NEVER = 1e6  # a margin that no score passes
DUAL_RATE = 2.0  # of the price of machines' money, a point above its limit

Report = Callable[[str], None]


@dataclass(slots=True)
class _Best:
    policy: PolicyFile
    verdict: Verdict
    stage: str


@dataclass(slots=True)
class _Run:
    """What the stages of a training share."""

    regimes: Sequence[Regime]
    parameters: Parameters
    plan: Training
    report: Report
    data: Path | None
    days: Days = field(init=False)
    base: Costs = field(init=False)
    best: _Best | None = None
    price: float = 0.0
    started: float = field(default_factory=time.monotonic)
    was_cut: bool = False

    def __post_init__(self) -> None:
        self.days = validation_days(self.regimes, self.plan, self.data)
        self.base = measured(policy_of(self.parameters), self.days)

    def is_over(self) -> bool:
        """Whether the minutes are used up; then what comes is no longer the same every time."""
        over = time.monotonic() - self.started > 60.0 * self.plan.minutes
        self.was_cut = self.was_cut or over
        return over

    def say(self, line: str) -> None:
        self.report(f"{time.monotonic() - self.started:6.0f} s  {line}")

    def consider(self, policy: PolicyFile, stage: str) -> PolicyFile:
        """Try a policy's margins; returns it with the best of them, and remembers the best of all.

        The price of machines' money rises while it is passed (a dual variable of the limit).
        """
        tried: list[tuple[float, Verdict, PolicyFile]] = []
        for margin in self.plan.margins:
            one = replace(policy, margin=margin)
            found = judged(one, self.days, self.base, self.plan.most_dollars)
            self.say(f"{stage}, margin {margin:g}: {found}")
            tried.append((found.score, found, one))
        score, found, chosen = min(tried, key=lambda one: one[0])
        self.price = max(0.0, self.price + DUAL_RATE * (found.dollars - self.plan.most_dollars))
        if self.best is None or score < self.best.verdict.score:
            self.best = _Best(chosen, found, stage)
        return chosen


def train(
    regimes: Sequence[Regime],
    parameters: Parameters,
    plan: Training | None = None,
    *,
    report: Report = lambda line: None,
    data: Path | None = None,
) -> PolicyFile:
    """The best policy found; the same for the same arguments on one machine.

    Args:
        regimes: To learn from; none may be held out.
        parameters: Of the base.
        plan: How.
        report: Called with lines of progress.
        data: The data folder, for regimes that need traces.

    Raises:
        SettingsError: a regime is held out.
    """
    check_regimes(regimes)
    torch.set_num_threads(1)
    run = _Run(regimes, parameters, plan or Training(), report, data)
    run.say(
        f"{policy_of(parameters).name} policy measured on {sum(map(len, run.days.values()))} days"
    )
    labels = _rounds(run)
    if run.plan.ppo_steps and not run.is_over():
        from rl.learning.ppo import refined  # needs stable-baselines3, the rounds do not

        assert run.best is not None
        layers = refined(run.best.policy, regimes, run.plan, run.price, run.say, data, run.is_over)
        run.consider(replace(run.best.policy, layers=layers), "PPO")
    return _chosen(run, len(labels))


def _rounds(run: _Run) -> Labels:
    plan, base = run.plan, policy_of(run.parameters)
    policy: Policy = base
    found: list[Label] = []
    for number in range(plan.rounds):
        days = training_days(run.regimes, plan, number, run.data)
        found += collect(days, policy, base, plan, number=number, is_over=run.is_over)
        labels = stacked(found, plan.alternatives)
        run.say(f"round {number}: {len(labels)} decisions labelled")
        fitted = fitted_policy(labels, run.parameters, plan, run.price, run.say)
        policy = Learned(run.consider(fitted, f"round {number}"))
        if run.is_over():
            break
    return labels


def fitted_policy(
    labels: Labels, parameters: Parameters, plan: Training, price: float, say: Report
) -> PolicyFile:
    """A policy whose networks are fitted to labels; its margin is the first of the plan's."""
    members = []
    for member in range(plan.members):
        scorer, before, after = fit(labels, plan, price, member)
        say(f"network {member}: error {before:.3f} of the costs alone, {after:.3f} with it")
        members.append(scorer.layers())
    return PolicyFile(
        layers=averaged(members),
        guard=guard_of(labels),
        tau=plan.tau,
        margin=plan.margins[0],
        reach=plan.reach,
        parameters=parameters,
        machines=plan.machines,
    )


def _chosen(run: _Run, labelled: int) -> PolicyFile:
    assert run.best is not None
    policy, found = run.best.policy, run.best.verdict
    if found.score >= 1.0:
        run.say("nothing is better than the base, which is kept")
        policy = replace(policy, margin=NEVER)
    training: dict[str, Any] = {
        "plan": run.plan.as_dict(),
        "regimes": {regime.name: regime.digest() for regime in run.regimes},
        "stage": run.best.stage,
        "labelled": labelled,
        "is_complete": not run.was_cut,
        "validation": found.ratios,
        "dollars": found.dollars,
        "met": found.met,
    }
    run.say(f"kept: {run.best.stage}, margin {policy.margin:g}: {found}")
    return replace(policy, training=training)
