"""The environment as RLlib's learner sees it: only decisions in which a network has a say.

What it may weigh is what `rl.neural.Learned` weighs: options that are allowed and not believed to
cost much more than the cheapest, and decisions about machines only where they are learned too.
Where there is but one, the base's choice is taken without asking, and the reward of that time
belongs to the decision before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ironcliw.errors import TrainingError
from rl.env import WIDTH, RoutingEnv
from rl.features import CLIP, CONTEXT, OPTION, Floats
from rl.parameters import parameters_of
from rl.regime import regime_of
from rl.view import ACTIONS

_ALLOWED, _OVER = OPTION.index("is_allowed"), OPTION.index("cost_over_least")
_ABOUT_MACHINES = CONTEXT.index("is_about_machines")
OVER_SCALE = 10.0  # of `cost_over_least`, see `rl.features`


def weighed(observation: Floats, reach: float, machines: bool) -> npt.NDArray[np.bool_]:
    """Which actions are weighed, of shape (ACTIONS,); the base's alone if none is.

    Args:
        observation: Of shape (WIDTH,), see `rl.env`.
        reach: USD over the cheapest, below 1: what is clipped is beyond it.
        machines: Whether decisions about machines are weighed.
    """
    options = observation[len(CONTEXT) :].reshape(ACTIONS, -1)
    found: npt.NDArray[np.bool_] = options[:, _ALLOWED] > 0.5
    if observation[_ABOUT_MACHINES] <= 0.5:
        return found & (options[:, _OVER] <= OVER_SCALE * reach)
    if machines or not found.any():
        return found
    cheapest = np.argmin(np.where(found, options[:, _OVER], np.inf))
    only: npt.NDArray[np.bool_] = np.arange(ACTIONS) == cheapest
    return only


class Decisions(gymnasium.Env[Floats, np.int64]):
    """A day after the other.

    Args:
        given: `regimes` (tables as in a regime's file), `base` (its kind) and its `parameters`,
            `reach`, `machines` (whether they are learned), `seed` and `days` of the days,
            `randomised` (see `RoutingEnv`; 0 without), `data` (the data folder, or nothing).
            Plain values, so that a process on another node needs no file of this one.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as in the base class

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._reach, self._machines = float(given["reach"]), bool(given["machines"])
        self._inner = RoutingEnv(
            [regime_of(values, "the trainer's regime") for values in given["regimes"]],
            parameters_of(given["base"], given["parameters"], "the trainer's base"),
            seed=int(given["seed"]),
            days=int(given["days"]),
            randomised=float(given.get("randomised", 0.0)),
            data=Path(given["data"]) if given.get("data") else None,
        )
        self.action_space = self._inner.action_space
        self.observation_space = gymnasium.spaces.Box(-CLIP, CLIP, (WIDTH,), np.float32)
        self._allowed = np.zeros(ACTIONS, dtype=np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin a day, at its first decision with a choice."""
        super().reset(seed=seed)
        while True:
            observation, info = self._inner.reset(seed=seed, options=options)
            seed = None
            observation, _, over, _ = self._forced(observation, 0.0, False, {})
            if not over or options:
                return observation, info

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take a decision, and those without a choice after it.

        Raises:
            TrainingError: the action was not to be weighed; the learner's mask does not hold.
        """
        if not self._allowed[int(action)]:
            names = np.flatnonzero(self._allowed).tolist()
            raise TrainingError(
                f"the learner took action {int(action)}, and {names} were to be weighed; its mask "
                "does not hold"
            )
        observation, reward, over, _, info = self._inner.step(action)
        observation, reward, over, info = self._forced(observation, reward, over, info)
        return observation, reward, over, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Which actions are weighed now."""
        return self._allowed.copy()

    def _forced(
        self, observation: Floats, reward: float, over: bool, info: dict[str, Any]
    ) -> tuple[Floats, float, bool, dict[str, Any]]:
        """Go on while there is nothing to choose."""
        while not over:
            self._allowed = weighed(observation, self._reach, self._machines)
            if self._allowed.sum() > 1:
                break
            only = np.int64(int(np.argmax(self._allowed)))
            observation, more, over, _, info = self._inner.step(only)
            reward += more
        return observation, reward, over, info
