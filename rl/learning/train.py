"""Trains a policy: labels under the policy so far, something small fitted to them, again; then PPO.

What the clairvoyant search does may be copied first (`cloning`), which the plan says.

Each round improves a policy by one step: what every option of a decision costs when that policy
decides the rest (`labels`), learned as a function of what can be seen (`ridge` or `network`). It is
policy iteration by rollouts (Bertsekas, Tsitsiklis, Wu 1997), begun at the base: the expected-cost
or the queue-aware policy. Then MaskablePPO may go on from the best of the rounds. What is chosen on
days of validation is confirmed on others, or nothing of it is kept: no file decides worse than its
base by the luck of a choice, and no labels come from a policy that is no better than it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rl.learning.days import check_regimes, fresh_days, training_days, validation_days
from rl.learning.labels import Label, Labels, collect, stacked, targets
from rl.learning.plan import Training
from rl.learning.ridge import fit_effects
from rl.learning.selection import (
    Confirmation,
    Costs,
    Days,
    Verdict,
    confirmed,
    judged,
    measured,
)
from rl.learning.start import guard_of, unlearned
from rl.neural import Learned
from rl.parameters import Parameters, policy_of
from rl.policy_file import Layer, PolicyFile
from rl.regime import Regime
from rl.simulator import Policy

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
    confirmations: int = 0
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
        """Try parts of a policy; returns the best of them, and remembers the best of all.

        The price of machines' money rises while it is passed (a dual variable of the limit).
        """
        tried: list[tuple[float, Verdict, PolicyFile]] = []
        for one in parts_of(policy, self.plan):
            found = judged(one, self.days, self.base, self.plan.most_dollars)
            self.say(f"{stage}, margin {one.margin:g}: {found}")
            tried.append((found.score, found, one))
        score, found, chosen = min(tried, key=lambda one: one[0])
        self.price = max(0.0, self.price + DUAL_RATE * (found.dollars - self.plan.most_dollars))
        if self.best is None or score < self.best.verdict.score:
            self.best = _Best(chosen, found, stage)
        return chosen

    def confirm(self, policy: PolicyFile, stage: str) -> Confirmation:
        """Try it on days on which nothing was chosen; each call has its own."""
        days = fresh_days(self.regimes, self.plan, self.confirmations, self.data)
        self.confirmations += 1
        found = confirmed(policy, days)
        self.say(f"{stage}: {found}")
        return found


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
    run = _Run(regimes, parameters, plan or Training(), report, data)
    run.say(
        f"{policy_of(parameters).name} policy measured on {sum(map(len, run.days.values()))} days"
    )
    if run.plan.cloned:
        from rl.learning.cloning import cloned  # needs torch

        run.consider(cloned(regimes, parameters, run.plan, run.say, data, run.is_over), "cloning")
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
        candidate = run.consider(fitted, f"round {number}")
        if run.is_over() or number == plan.rounds - 1:
            break
        policy = base
        if run.confirm(candidate, f"round {number}").holds:
            policy = Learned(candidate)
    return labels


def parts_of(policy: PolicyFile, plan: Training) -> list[PolicyFile]:
    """What is tried of a policy: with each margin, each share of what was learned."""
    return [
        replace(shrunk(policy, share), margin=margin)
        for share in plan.shrinks
        for margin in plan.margins
    ]


def shrunk(policy: PolicyFile, share: float) -> PolicyFile:
    """A policy of which a share of what was learned is left."""
    part = np.float32(share)
    *others, (weight, bias) = policy.layers
    effects = None if policy.effects is None else policy.effects * part
    return replace(policy, layers=(*others, (weight * part, bias * part)), effects=effects)


def fitted_policy(
    labels: Labels, parameters: Parameters, plan: Training, price: float, say: Report
) -> PolicyFile:
    """A policy fitted to labels, without a margin.

    Args:
        labels: Of decisions.
        parameters: Of the base.
        plan: How; its `model` says what is fitted.
        price: By which a dollar for machines weighs more than another.
        say: Told of errors.
    """
    guard = guard_of(labels.context, labels.options[labels.there])
    policy = unlearned(parameters, plan, guard)
    if plan.model == "network":
        return replace(policy, layers=_network(labels, plan, price, say))
    beyond = targets(labels, plan, price) - (labels.over - labels.over[:, :1])
    found = fit_effects(labels, np.where(labels.there, beyond, 0.0))
    say(
        f"effects: {100.0 * found.explained:.2f} % explained on other days, pull {found.strength:g}"
    )
    return replace(policy, effects=found.weights.astype(np.float32))


def _network(labels: Labels, plan: Training, price: float, say: Report) -> tuple[Layer, ...]:
    import torch  # takes seconds, and the other model does without

    from rl.learning.network import averaged, fit

    torch.set_num_threads(1)
    members = []
    for member in range(plan.members):
        scorer, before, after = fit(labels, plan, price, member)
        say(f"network {member}: error {before:.5f} of the costs alone, {after:.5f} with it")
        members.append(scorer.layers())
    return averaged(members)


def _chosen(run: _Run, labelled: int) -> PolicyFile:
    assert run.best is not None
    policy, found = run.best.policy, run.best.verdict
    holds, told = False, None
    if found.score < 1.0:
        told = run.confirm(policy, run.best.stage)
        holds = told.holds
    if not holds:
        run.say("nothing is better than the base beyond doubt; the file decides as the base does")
        policy = policy.silent()
    training: dict[str, Any] = {
        "plan": run.plan.as_dict(),
        "regimes": {regime.name: regime.digest() for regime in run.regimes},
        "stage": run.best.stage,
        "labelled": labelled,
        "is_complete": not run.was_cut,
        "validation": found.ratios,
        "dollars": found.dollars,
        "met": found.met,
        "is_confirmed": holds,
        "confirmation": None if told is None else {**asdict(told.ratio), "days": told.days},
    }
    run.say(f"kept: {run.best.stage if holds else 'the base'}; on days of validation {found}")
    return replace(policy, training=training)
