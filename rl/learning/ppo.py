"""MaskablePPO of sb3-contrib, which goes on from a policy that was fitted to labels.

Its policy is the network of the policy file behind the same start: logits are scores, so before the
first update its best action is the file's. Advantages are against the base on the same day
(`episodes.py`), the days go from light to busy, and money for machines has a price that rises while
more is spent than may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from rl.env import WIDTH
from rl.features import CONTEXT, OPTION
from rl.learning.episodes import Windows
from rl.learning.network import SHARPNESS, Scorer, scorer_of
from rl.learning.plan import Training
from rl.neural import MACHINES_OVER
from rl.policy_file import Layer, PolicyFile
from rl.regime import Regime
from rl.view import ACTIONS

ENVIRONMENTS = 8
STEPS = 512  # of each between updates
PRICE_RATE = 0.5  # of the price of machines' money, an update and point above its limit
_OVER = OPTION.index("cost_over_least")
_MACHINES = CONTEXT.index("is_about_machines")


class Scores(nn.Module):
    """What SB3 calls an extractor: logits of actions, and a hidden layer of the critic.

    Args:
        scorer: Adds to the scores.
        tau: See `rl.policy_file.PolicyFile`.
    """

    latent_dim_pi = ACTIONS
    latent_dim_vf = 64

    def __init__(self, scorer: Scorer, tau: float) -> None:
        super().__init__()
        self.scorer = scorer
        self.critic = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self._tau = tau

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, ACTIONS), hidden (B, 64)) of observations (B, WIDTH)."""
        return self.forward_actor(observations), self.forward_critic(observations)

    def forward_actor(self, observations: Tensor) -> Tensor:
        """Logits."""
        context = observations[:, : len(CONTEXT)]
        options = observations[:, len(CONTEXT) :].reshape(-1, ACTIONS, len(OPTION))
        over = options[..., _OVER] / 10.0
        about_machines = context[:, _MACHINES : _MACHINES + 1] > 0.5
        over = torch.where(about_machines, over.clamp(max=MACHINES_OVER), over)
        scores: Tensor = SHARPNESS * (self.scorer(context, options) - over / self._tau)
        return scores

    def forward_critic(self, observations: Tensor) -> Tensor:
        """Hidden layer of the critic."""
        found: Tensor = self.critic(observations)
        return found


class ScoringPolicy(MaskableActorCriticPolicy):
    """A policy of sb3-contrib that scores options one by one.

    Args:
        layers: To begin with.
        tau: See `Scores`.
    """

    def __init__(self, *args: Any, layers: Sequence[Layer], tau: float, **options: Any) -> None:
        self._start = (tuple(layers), tau)
        super().__init__(*args, **{**options, "ortho_init": False})

    def _build_mlp_extractor(self) -> None:
        layers, tau = self._start
        self.mlp_extractor = Scores(scorer_of(layers), tau)  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()  # the extractor's output are logits
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )


class _Progress(BaseCallback):
    """The curriculum and the price of machines' money, between updates."""

    def __init__(
        self,
        windows: Sequence[Windows],
        plan: Training,
        price: float,
        say: Callable[[str], None],
        is_over: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._windows, self._plan, self._price, self._say = windows, plan, price, say
        self._is_over = is_over

    def _on_step(self) -> bool:
        return not self._is_over()  # with False it ends where it is

    def _on_rollout_end(self) -> None:
        own, theirs = (sum(one.dollars[which] for one in self._windows) for which in (0, 1))
        ratio = own / theirs if theirs > 0 else 1.0
        self._price = max(0.0, self._price + PRICE_RATE * (ratio - self._plan.most_dollars))
        for one in self._windows:
            one.dollars = [0.0, 0.0]
            one.price = self._price
            one.progress = self.num_timesteps / self._plan.ppo_steps
        rewards = self.model.rollout_buffer.rewards  # type: ignore[attr-defined]
        self._say(
            f"PPO {self.num_timesteps}: reward {float(rewards.mean()):+.5f} a decision, machines "
            f"{ratio:.3f}, price {self._price:.3f}"
        )


def learner(
    policy: PolicyFile,
    windows: Sequence[Windows],
    plan: Training,
) -> MaskablePPO:
    """MaskablePPO at a policy, before it has learned."""
    return MaskablePPO(
        ScoringPolicy,
        DummyVecEnv([lambda one=one: one for one in windows]),  # type: ignore[misc]
        policy_kwargs={"layers": policy.layers, "tau": policy.tau},
        learning_rate=1e-4,
        n_steps=max(8, min(STEPS, plan.ppo_steps // len(windows))),
        batch_size=256,
        n_epochs=4,
        gamma=0.98,
        gae_lambda=0.9,
        clip_range=0.1,
        target_kl=0.02,
        ent_coef=0.0,
        seed=plan.seed,
        device="cpu",
    )


def layers_of(model: MaskablePPO) -> tuple[Layer, ...]:
    """The network that adds to the scores, for a policy file."""
    extractor = model.policy.mlp_extractor
    assert isinstance(extractor, Scores)
    return extractor.scorer.layers()


def refined(
    policy: PolicyFile,
    regimes: Sequence[Regime],
    plan: Training,
    price: float,
    say: Callable[[str], None],
    data: Path | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[Layer, ...]:
    """The layers after `plan.ppo_steps` decisions of MaskablePPO, or after those until it is over.

    Args:
        policy: To begin with.
        regimes: To learn from.
        plan: How.
        price: Of machines' money, to begin with.
        say: Called with lines of progress.
        data: The data folder.
        is_over: Whether to make an end now; asked at each step.
    """
    torch.set_num_threads(1)
    windows = [
        Windows(regimes, policy.parameters, plan, member, data) for member in range(ENVIRONMENTS)
    ]
    model = learner(policy, windows, plan)
    model.learn(plan.ppo_steps, callback=_Progress(windows, plan, price, say, is_over))
    return layers_of(model)
