"""RLlib's network for routing: the one of `rl.policy_file`, with a critic beside it.

Each option is scored by the same small network from (context, option), added to minus what the
option is believed to cost over the cheapest. The last layer begins as zeros, so that the first
policy is the base with some noise. What is not weighed gets no probability; which
that is can be read from the observation, so no mask travels beside it.

Shapes: B batch, A actions, C context, F features of an option.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from rl.features import CONTEXT, OPTION
from rl.learning.network import Scorer
from rl.neural import MACHINES_OVER
from rl.policy_file import Layer
from rl.rllib.decisions import OVER_SCALE
from rl.view import ACTIONS

_ALLOWED, _OVER = OPTION.index("is_allowed"), OPTION.index("cost_over_least")
_ABOUT_MACHINES = CONTEXT.index("is_about_machines")
NEVER = -1e9
"""Logit of what is not weighed: finite, so that an entropy and a divergence are numbers."""


class ScoringModule(TorchRLModule, ValueFunctionAPI):
    """PPO's module; `model_config` has `hidden` (units), `tau`, `reach` (USD) and `machines`."""

    def setup(self) -> None:
        """Called once by RLlib."""
        given = self.model_config
        assert isinstance(given, dict)
        hidden = int(given["hidden"])
        self.tau, self.reach = float(given["tau"]), float(given["reach"])
        self.machines = bool(given["machines"])
        self.scorer = Scorer([hidden, hidden])
        self.critic = nn.Sequential(
            nn.Linear(len(CONTEXT), hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.logits(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """(B) values; the context alone knows how the day goes on."""
        values: Tensor = self.critic(batch[Columns.OBS][..., : len(CONTEXT)]).squeeze(-1)
        return values

    def logits(self, observation: Tensor) -> Tensor:
        """(B, WIDTH) -> (B, A)."""
        context, options = _parts(observation)
        about_machines = context[..., _ABOUT_MACHINES, None] > 0.5
        over = options[..., _OVER] / OVER_SCALE
        is_near = over <= self.reach
        may_be = about_machines | is_near if self.machines else ~about_machines & is_near
        is_weighed = (options[..., _ALLOWED] > 0.5) & may_be
        over = torch.where(about_machines, over.clamp(max=MACHINES_OVER), over)
        scores = self.residuals(context, options) - over / self.tau
        return torch.where(is_weighed, scores, NEVER)

    def residuals(self, context: Tensor, options: Tensor) -> Tensor:
        """(B, C), (B, A, F) -> (B, A): what the network adds."""
        found: Tensor = self.scorer(context, options)
        return found

    def layers(self) -> tuple[Layer, ...]:
        """Weights as `rl.policy_file` keeps them."""
        return self.scorer.layers()


def _parts(observation: Tensor) -> tuple[Tensor, Tensor]:
    """(B, WIDTH) -> (B, C), (B, A, F)."""
    context = observation[..., : len(CONTEXT)]
    return context, observation[..., len(CONTEXT) :].reshape(*observation.shape[:-1], ACTIONS, -1)
