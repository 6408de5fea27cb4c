"""Copies who knew the day: behaviour cloning of the clairvoyant search, by what can be seen.

A plan that the search finds is carried out again, and of each decision it is kept what a policy
would have seen there, who knows no more than it does, and what the plan took. A network, begun at
zero on top of the base's costs, is fitted so that it would have been taken (cross-entropy). What a
plan does for reasons that nobody sees beforehand is copied as noise: so it is a start, which days
of validation judge beside all others, and from which PPO may go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ironcliw.errors import DataError
from rl.clairvoyant import Plan, Planned, search
from rl.features import Floats, features
from rl.guardrails import mask_of, refusals
from rl.learning.days import training_days
from rl.learning.network import SHARPNESS, Scorer
from rl.learning.plan import Training
from rl.learning.start import guard_of, unlearned
from rl.neural import overs, weighed
from rl.parameters import Base, Parameters, policy_of
from rl.policy_file import PolicyFile
from rl.regime import Regime
from rl.simulator import Decision, Simulation, simulate
from rl.view import ACTIONS
from rl.views import Beliefs, view_of
from rl.work import Day

ROUND = 400  # whose days of training are copied; the rounds of labels have those before
_NEVER = -1e9
_TOLD_EACH = 25  # days

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shown:
    """Decisions (N) of plans, each with what was weighed of all actions (A).

    Attributes:
        context: (N, len(CONTEXT)).
        options: (N, A, len(OPTION)).
        over: (N, A), USD that the base believes each to cost over the cheapest.
        there: (N, A), whether it was weighed.
        taken: (N,), by the plan.
    """

    context: Floats
    options: Floats
    over: Floats
    there: npt.NDArray[np.bool_]
    taken: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.taken)


Choice = tuple[Floats, Floats, Floats, npt.NDArray[np.bool_], int]


def cloned(
    regimes: Sequence[Regime],
    parameters: Parameters,
    plan: Training,
    say: Say,
    data: Path | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> PolicyFile:
    """A policy that was fitted to plans of `plan.cloned` days of training.

    Args:
        regimes: To learn from.
        parameters: Of the base, at which the search begins, too.
        plan: How.
        say: Called with lines of progress.
        data: The data folder.
        is_over: Asked after each day; true to end before all are searched.
    """
    shown = shown_on(training_days(regimes, plan, ROUND, data), parameters, plan, say, is_over)
    scorer, before, after = fit_choices(shown, plan)
    say(f"cloning: of decisions left out {before:.1%} are the base's, {after:.1%} the network's")
    guard = guard_of(shown.context, shown.options[shown.there])
    return replace(unlearned(parameters, plan, guard), layers=scorer.layers())


def shown_on(
    days: Iterable[Day],
    parameters: Parameters,
    plan: Training,
    say: Say = lambda line: None,
    is_over: Callable[[], bool] = lambda: False,
) -> Shown:
    """What plans of the first `plan.cloned` days took.

    Raises:
        DataError: none of them has a decision with a choice.
    """
    base = policy_of(parameters)
    found: list[Choice] = []
    own = theirs = 0.0
    for number, day in enumerate(islice(days, plan.cloned)):
        if number and number % _TOLD_EACH == 0:
            say(f"cloning: {number} of {plan.cloned} days are searched")
        made, outcome = search(day, (parameters,), evaluations=plan.searched, seed=plan.seed)
        own, theirs = own + outcome.cost, theirs + simulate(day, base).cost
        found += choices_of(day, made, base, plan.reach)
        if found and is_over():
            break
    if not found:
        raise DataError(f"{plan.cloned} days have no decision with a choice; raise cloned")
    say(f"cloning: {len(found)} decisions of plans that cost {own / theirs:.3f} of the base")
    return _stacked(found)


def choices_of(day: Day, made: Plan, base: Base, reach: float) -> Iterable[Choice]:
    """Decisions of a plan about steps in which what it took was weighed beside another option."""
    policy = Planned(made)
    simulation = Simulation(day, order=policy.order, clairvoyant=True, ranks=made.ranks)
    believed = Beliefs(simulation.world)
    while (decision := simulation.next_decision()) is not None:
        taken = policy.choose(decision.view, decision.mask)
        choice = _choice(simulation, believed, decision, taken, base, reach)
        if choice is not None:
            yield choice
        simulation.take(taken, policy.name)


def _choice(
    simulation: Simulation,
    believed: Beliefs,
    decision: Decision,
    taken: int,
    base: Base,
    reach: float,
) -> Choice | None:
    if decision.task is None:
        return None
    # the plan's own view holds the truth
    view = view_of(simulation.world, believed, decision.task)
    mask = mask_of(refusals(view, simulation.limits))
    costs = base.costs(view, mask)
    found = weighed(costs, view, reach, machines=False)
    if taken not in found or len(found) < 2:
        return None
    context, options = features(view, mask, costs)
    over = np.zeros(ACTIONS, dtype=np.float32)
    over[found] = np.array(overs(costs, view))[found]
    there = np.zeros(ACTIONS, dtype=np.bool_)
    there[found] = True
    return context, options, over, there, taken


def _stacked(found: Sequence[Choice]) -> Shown:
    context, options, over, there, taken = zip(*found, strict=True)
    return Shown(
        np.stack(context), np.stack(options), np.stack(over), np.stack(there),
        np.array(taken, dtype=np.int64),
    )  # fmt: skip


def fit_choices(shown: Shown, plan: Training) -> tuple[Scorer, float, float]:
    """A network by whose scores what was shown is likely.

    Args:
        shown: Decisions.
        plan: How.

    Returns:
        The network, and of a tenth that was left out the shares in which the base's and its choice
        is the one that was shown.
    """
    torch.set_num_threads(1)
    random = np.random.default_rng([plan.seed, 4])
    torch.manual_seed(int(random.integers(2**31)))
    data = _Data(shown, plan.tau)
    mixed = random.permutation(len(shown))
    kept, rows = np.split(mixed, [len(mixed) // 10])
    scorer = Scorer([plan.width, plan.width])
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=plan.rate, weight_decay=plan.decay)
    before = data.share(scorer, kept)
    for _ in range(plan.epochs):
        shuffled = random.permutation(rows)
        for start in range(0, len(rows), plan.batch):
            batch = torch.from_numpy(shuffled[start : start + plan.batch])
            loss = nn.functional.cross_entropy(data.logits(scorer, batch), data.taken[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
            optimizer.step()
    return scorer, before, data.share(scorer, kept)


class _Data:
    def __init__(self, shown: Shown, tau: float) -> None:
        self._context = torch.from_numpy(shown.context)
        self._options = torch.from_numpy(shown.options)
        self._over = torch.from_numpy(shown.over / np.float32(tau))
        self._there = torch.from_numpy(shown.there)
        self.taken = torch.from_numpy(shown.taken)

    def logits(self, scorer: Scorer, rows: Tensor) -> Tensor:
        """(B, A) of decisions (B,)."""
        scores = scorer(self._context[rows], self._options[rows]) - self._over[rows]
        return torch.where(self._there[rows], SHARPNESS * scores, _NEVER)

    def share(self, scorer: Scorer, kept: npt.NDArray[np.int64]) -> float:
        """Of some decisions, those whose best score is of what was taken; 0 without any."""
        rows = torch.from_numpy(kept)
        with torch.no_grad():
            best = self.logits(scorer, rows).argmax(dim=1)
        return float((best == self.taken[rows]).float().mean()) if len(rows) else 0.0
