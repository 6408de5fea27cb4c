"""An hour of a day as an episode, rewarded by what the base spends in it.

Arrivals and durations decide most of what a day costs, whoever places its steps. So a reward is
what was spent since the last decision less what the base spent on the same day in the same time (an
input-dependent baseline: Mao et al. 2019, ICLR): it is a function of the day and the time, which
leaves the best policy as it is and takes most of the variance away.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rl.branches import branch
from rl.env import WIDTH
from rl.features import CLIP, Floats, features
from rl.learning.plan import Training
from rl.learning.randomised import randomised
from rl.neural import weighed
from rl.parameters import Parameters, policy_of
from rl.regime import Regime
from rl.simulator import Simulation
from rl.view import ACTIONS, View
from rl.workload import make_day

FIRST_DAY = 500_000_000  # from which on the rounds use none
DAYS = 10_000_000  # that each environment draws from
REWARD_DOLLARS = 0.1  # that a reward of 1 stands for


class Windows(gymnasium.Env[Floats, np.int64]):
    """Decisions of `rl.view` in windows of days; observations are those of `rl.env.RoutingEnv`.

    Args:
        regimes: From light to busy; `progress` says how many of them are drawn from, and how many
            days are of randomised ones instead.
        parameters: Of the base.
        plan: Its seed, horizon, reach and randomised share.
        member: Which of the environments that learn side by side; each has days of its own.
        data: The data folder, for regimes that need traces.

    Attributes:
        progress: 0 to 1; the curriculum.
        price: By which a dollar for machines weighs more than another.
        dollars: (own, the base's) for machines, of all windows since it was set.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # an instance's variable in the base class

    def __init__(
        self,
        regimes: Sequence[Regime],
        parameters: Parameters,
        plan: Training,
        member: int = 0,
        data: Path | None = None,
    ) -> None:
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.observation_space = gymnasium.spaces.Box(-CLIP, CLIP, (WIDTH,), np.float32)
        self.progress, self.price = 0.0, 0.0
        self.dollars = [0.0, 0.0]
        self._regimes = sorted(regimes, key=lambda one: sum(one.arrivals.workflows_per_day))
        self._base = policy_of(parameters)
        self._plan, self._data = plan, data
        self._first = FIRST_DAY + DAYS * member
        self._simulation: Simulation
        self._curve: tuple[list[float], list[tuple[float, float]]] = ([], [])
        self._end = 0.0
        self._own = self._sibling = (0.0, 0.0)
        self._mask = np.ones(ACTIONS, dtype=np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin somewhere in a new day, which the base has decided until then."""
        super().reset(seed=seed)
        count = max(1, round((0.4 + 0.6 * self.progress) * len(self._regimes)))
        while True:
            number = self._first + int(self.np_random.integers(DAYS))
            regime = self._regimes[int(self.np_random.integers(min(count, len(self._regimes))))]
            # the ranges hold days of all loads, so they come in as the curriculum goes on
            if self.np_random.random() < self._plan.randomised * self.progress:
                regime = randomised(self._plan.seed, number)
            day = make_day(regime, self._plan.seed, "train", number, data=self._data)
            if self._walk(Simulation(day, order=self._base.order)):
                break
        start = self._simulation.world.now
        self._end = start + self._plan.horizon
        self._own = self._simulation.world.spent_at(start)
        self._sibling = self._spent_by_sibling(start)
        return self._observation(), {"day": day.name}

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take a decision; it must be allowed by `action_masks`.

        A window is cut at its first decision beyond the horizon. What that leaves behind is worth
        something, so the learner has to add what it believes: a window is truncated, not over.
        """
        world = self._simulation.world
        self._simulation.take(int(action), "of the windows")
        self._next()
        over = self._simulation.asked is None
        is_cut = not over and world.now >= self._end
        # whoever is done first waits for the other: then both have paid for the same day
        now = max(world.now, self._curve[0][-1]) if over else world.now
        own, sibling = world.spent_at(now), self._spent_by_sibling(now)
        spent, machines = own[0] - self._own[0], own[1] - self._own[1]
        theirs, their_machines = sibling[0] - self._sibling[0], sibling[1] - self._sibling[1]
        self._own, self._sibling = own, sibling
        self.dollars[0] += machines
        self.dollars[1] += their_machines
        worse = spent - theirs + self.price * (machines - their_machines)
        return self._observation(), -worse / REWARD_DOLLARS, over, is_cut, {}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """True for actions that are allowed and within reach."""
        return self._mask

    def _weighed(self, costs: Sequence[float], view: View) -> list[int]:
        return weighed(costs, view, self._plan.reach, self._plan.machines)

    def _walk(self, simulation: Simulation) -> bool:
        """Let the base have the day; keep its costs, and one of its decisions."""
        times, spent, seen = [0.0], [(0.0, 0.0)], 0
        while (decision := simulation.next_decision()) is not None:
            world = simulation.world
            times.append(world.now)
            spent.append(world.spent_at(world.now))
            costs = self._base.costs(decision.view, decision.mask)
            if len(self._weighed(costs, decision.view)) > 1:
                seen += 1
                if self.np_random.integers(seen) == 0:  # each of them with the same chance
                    self._simulation = branch(simulation)
            simulation.take(costs.index(min(costs)))
        times.append(simulation.world.now)
        spent.append(simulation.world.spent_at(simulation.world.now))
        self._curve = (times, spent)
        return seen > 0

    def _spent_by_sibling(self, when: float) -> tuple[float, float]:
        """Of the base until a time, straight between its decisions."""
        times, spent = self._curve
        at = bisect_right(times, when)
        if at >= len(times):
            return spent[-1]
        (one, its), (other, others) = spent[at - 1], spent[at]
        share = (when - times[at - 1]) / max(times[at] - times[at - 1], 1e-9)
        return one + share * (other - one), its + share * (others - its)

    def _next(self) -> None:
        """Go on to a decision with more than one option, or to the day's end."""
        while (decision := self._simulation.next_decision()) is not None:
            costs = self._base.costs(decision.view, decision.mask)
            if len(self._weighed(costs, decision.view)) > 1:
                return
            self._simulation.take(costs.index(min(costs)))

    def _observation(self) -> Floats:
        decision = self._simulation.asked
        if decision is None:
            self._mask = np.ones(ACTIONS, dtype=np.bool_)
            return np.zeros(WIDTH, dtype=np.float32)
        view, mask = decision.view, decision.mask
        costs = self._base.costs(view, mask)
        self._mask = np.zeros(ACTIONS, dtype=np.bool_)
        self._mask[self._weighed(costs, view)] = True
        context, options = features(view, mask, costs)
        return np.concatenate([context, options.ravel()])
