"""The simulator as an environment of Gymnasium, for a learner that masks actions.

An episode is a day, drawn from a regime's days of one split. A step is a decision; its reward is
the cost since the last one, negative, divided by what the expected-cost policy makes of the same
day. So an episode's return is minus the ratio of the two, and days of all sizes count alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rl.features import CLIP, CONTEXT, OPTION, Floats, features
from rl.greedy import GreedyParameters
from rl.learning.randomised import randomised
from rl.parameters import Parameters, policy_of
from rl.regime import Regime
from rl.simulator import Decision, Simulation, simulate
from rl.traces import Split
from rl.view import ACTIONS
from rl.workload import make_day

LEAST_COST = 0.05  # USD, by which a day's costs are divided at least
WIDTH = len(CONTEXT) + ACTIONS * len(OPTION)


class RoutingEnv(gymnasium.Env[Floats, np.int64]):
    """Decisions of `rl.view` over days of a few regimes.

    Observations are the context followed by the options' features, row by row, of width `WIDTH`.

    Args:
        regimes: One is drawn for each episode.
        parameters: Of the policy whose costs are seen, and divided by; the expected-cost one as
            written without.
        seed: Of the days.
        split: Whose days.
        days: Of each regime, from which is drawn.
        randomised: Share of the episodes whose regime is drawn from wide ranges instead
            (`rl.learning.randomised`); none where a day is asked for.
        data: The data folder, for regimes that need traces.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # an instance's variable in the base class

    def __init__(
        self,
        regimes: Sequence[Regime],
        parameters: Parameters | None = None,
        *,
        seed: int = 0,
        split: Split = "train",
        days: int = 1000,
        randomised: float = 0.0,
        data: Path | None = None,
    ) -> None:
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.observation_space = gymnasium.spaces.Box(-CLIP, CLIP, (WIDTH,), np.float32)
        self._regimes = tuple(regimes)
        self._policy = policy_of(parameters or GreedyParameters())
        self._days = (seed, split, days, data)
        self._randomised = randomised
        self._bases: dict[str, float] = {}
        self._simulation: Simulation
        self._decision: Decision | None = None
        self._base = self._spent = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin a day: drawn at random, or number `day` of regime `regime` of the options."""
        super().reset(seed=seed)
        wanted = options or {}
        days_seed, split, count, data = self._days
        while True:
            which = int(wanted.get("regime", self.np_random.integers(len(self._regimes))))
            number = int(wanted.get("day", self.np_random.integers(count)))
            regime = self._regimes[which]
            if not wanted and 0 < self._randomised > self.np_random.random():
                regime = randomised(days_seed, number)
            day = make_day(regime, days_seed, split, number, data=data)
            if day.name not in self._bases:
                self._bases[day.name] = max(simulate(day, self._policy).cost, LEAST_COST)
            self._base, self._spent = self._bases[day.name], 0.0
            self._simulation = Simulation(day, order=self._policy.order)
            self._decision = self._simulation.next_decision()
            if self._decision is not None or "day" in wanted:
                return self._observation(), {"day": day.name}

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take a decision.

        A masked action is not done: the expected-cost policy's is, and `info["refused"]` says why.
        """
        assert self._decision is not None, "the day is over: call reset()"
        taken, info = int(action), dict[str, Any]()
        if (reason := self._decision.reasons[taken]) is not None:
            info["refused"] = reason
            taken = self._policy.choose(self._decision.view, self._decision.mask)
        self._simulation.take(taken, "of the environment")
        self._decision = self._simulation.next_decision()
        spent = self._simulation.world.cost()
        reward = (self._spent - spent) / self._base
        self._spent = spent
        over = self._decision is None
        if over:
            info["outcome"] = self._simulation.outcome().as_dict()
        return self._observation(), reward, over, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """True where an action is allowed: the name that MaskablePPO of sb3-contrib asks for."""
        if self._decision is None:
            return np.ones(ACTIONS, dtype=np.bool_)
        return np.array(self._decision.mask, dtype=np.bool_)

    def _observation(self) -> Floats:
        if self._decision is None:
            return np.zeros(WIDTH, dtype=np.float32)
        view, mask = self._decision.view, self._decision.mask
        context, options = features(view, mask, self._policy.costs(view, mask))
        return np.concatenate([context, options.ravel()])
