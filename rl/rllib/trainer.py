"""Trains a routing policy with RLlib on as many nodes as there are, and writes its file.

    ray job submit --working-dir . -- python -m rl train-rllib --regime rl/regimes/light.toml \\
        --runners 8 --on-spot --folder gs://bucket/routing --out policy.npz

Runners simulate days and may be anywhere; the learner is where the program is. A runner that is
lost is started again, and a program that is lost goes on from its newest checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError, TrainingError
from rl.evaluate import days_of
from rl.neural import Learned
from rl.parameters import kind_of, policy_of
from rl.policy_file import PolicyFile, save_policy
from rl.regime import Regime
from rl.rllib.checkpoints import Checkpoints
from rl.rllib.guard import guard_of
from rl.rllib.numbers import RllibSettings
from rl.schema import schema_of
from rl.simulator import simulate
from rl.sources import RandomisedDays
from rl.statistics import paired_ratio
from rl.work import Day

_WHERE = frozenset({"runners", "on_spot"})
_OF_THE_NETWORK = ("hidden", "tau", "reach", "machines")
Report = Callable[[int, Mapping[str, float]], None]


class RllibTrainer:
    """A training that goes on where it was; Ray must have been started.

    Args:
        regimes: Whose days it learns from.
        settings: How.
        folder: Of its checkpoints: a path, or a URI that all nodes reach.
        data: The data folder, for regimes that need traces.

    Raises:
        SettingsError: a regime is held out, or the folder holds another training.
    """

    def __init__(
        self,
        regimes: Sequence[Regime],
        settings: RllibSettings,
        folder: str,
        data: Path | None = None,
    ) -> None:
        for regime in regimes:
            if not regime.trained:
                raise SettingsError(
                    f"regime {regime.name!r} is held out (trained = false); train on others"
                )
        self.regimes, self.settings, self.data = tuple(regimes), settings, data
        self._checkpoints = Checkpoints(folder, self._identity())
        self._algorithm = self._config().build_algo()
        if newest := self._checkpoints.newest():
            self._algorithm.restore_from_path(newest)

    @property
    def iteration(self) -> int:
        """Those that are done."""
        return int(self._algorithm.iteration)

    def train(self, iterations: int, report: Report, every: int = 5) -> None:
        """Go on until so many iterations are done; a checkpoint now and then, and at the end.

        Raises:
            TrainingError: a loss is no number.
        """
        while self.iteration < iterations:
            found = _figures(self._algorithm.train())
            if not math.isfinite(found["loss"]):
                raise TrainingError(
                    f"the loss of iteration {self.iteration} is {found['loss']}; lower "
                    "learning_rate, and give another folder"
                )
            if self.iteration % every == 0 or self.iteration == iterations:
                self._checkpoints.save(self.iteration, self._algorithm.save_to_path)
            report(self.iteration, found)

    def policy(self) -> PolicyFile:
        """The policy as it is now; its guard is of days that the base runs."""
        settings = self.settings
        return PolicyFile(
            layers=self.module().layers(),
            guard=guard_of(self._seen(), settings.parameters, settings.reach, settings.machines),
            tau=settings.tau,
            margin=settings.margin,
            reach=settings.reach,
            parameters=settings.parameters,
            machines=settings.machines,
            training={
                "trainer": "rllib",
                "iterations": self.iteration,
                "regimes": {regime.name: regime.digest() for regime in self.regimes},
                **{name: one for name, one in asdict(settings).items() if name != "parameters"},
            },
        )

    def _seen(self) -> list[Day]:
        """Some of the days that were learned from."""
        settings = self.settings
        seed, count = settings.seed, min(settings.days, 20)
        found = [
            day
            for regime in self.regimes
            for day in days_of(regime, seed, "train", count, self.data)
        ]
        if settings.randomised > 0:
            drawn = RandomisedDays(seed)
            found += [drawn(number) for number in range(count)]
        return found

    def module(self) -> Any:
        """The network that the learner has."""
        return self._algorithm.learner_group._learner.module["default_policy"]

    def stop(self) -> None:
        """End the runners."""
        self._algorithm.stop()

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a training to go on: not where its parts run."""
        told = {name: one for name, one in asdict(self.settings).items() if name not in _WHERE}
        regimes = {regime.name: regime.digest() for regime in self.regimes}
        return {
            **told,
            "base": kind_of(self.settings.parameters),
            "regimes": regimes,
            "features": schema_of(self.settings.parameters),
        }

    def _config(self) -> Any:
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.rl_module import RLModuleSpec

        from rl.rllib.decisions import Decisions
        from rl.rllib.module import ScoringModule

        settings = self.settings
        given = {
            "regimes": [regime.model_dump(mode="json") for regime in self.regimes],
            "base": kind_of(settings.parameters),
            "parameters": asdict(settings.parameters),
            "reach": settings.reach,
            "machines": settings.machines,
            "seed": settings.seed,
            "days": settings.days,
            "randomised": settings.randomised,
            "data": str(self.data) if self.data else "",
        }
        spec = RLModuleSpec(
            module_class=ScoringModule,
            model_config={name: getattr(settings, name) for name in _OF_THE_NETWORK},
        )
        begun: Any = PPOConfig  # whose methods have types, and whose constructor has none
        return (
            begun()
            .environment(Decisions, env_config=given, disable_env_checking=True)
            .env_runners(
                num_env_runners=settings.runners,
                num_envs_per_env_runner=settings.environments,
                custom_resources_per_env_runner={"spot": 0.001} if settings.on_spot else {},
            )
            .learners(num_learners=0)
            .rl_module(rl_module_spec=spec)
            .training(
                lr=settings.learning_rate,
                gamma=settings.horizon,
                lambda_=0.95,
                train_batch_size_per_learner=settings.decisions,
                minibatch_size=min(512, settings.decisions),
                num_epochs=settings.passes,
                clip_param=settings.clip,
                entropy_coeff=settings.entropy,
                kl_coeff=settings.kl,
                vf_clip_param=10.0,
                grad_clip=0.5,
            )
            .fault_tolerance(restart_failed_env_runners=True)
            .debugging(seed=settings.seed, log_level="ERROR")
        )


def write_policy(trainer: RllibTrainer, out: Path) -> PolicyFile:
    """Save a trainer's policy.

    Raises:
        SettingsError: the file cannot be written.
    """
    return save_policy(out, trainer.policy())


def validation(
    policy: PolicyFile, regimes: Sequence[Regime], days: int, data: Path | None
) -> float:
    """Its cost by its base's, the mean over regimes of days of validation."""
    ratios = []
    for regime in regimes:
        some = days_of(regime, 1, "validation", days, data)
        own = [simulate(day, Learned(policy)).cost for day in some]
        base = [simulate(day, policy_of(policy.parameters)).cost for day in some]
        ratios.append(paired_ratio(own, base, resamples=100).mean)
    return sum(ratios) / len(ratios)


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    """Of an iteration: the loss, and what the days came to."""
    learner = result["learners"]["default_policy"]
    runners = result.get("env_runners", {})
    return {
        "loss": float(learner["total_loss"]),
        "entropy": float(learner["entropy"]),
        "divergence": float(learner["mean_kl_loss"]),
        "ratio": -float(runners.get("episode_return_mean", math.nan)),
        "decisions": float(runners.get("num_env_steps_sampled_lifetime", 0.0)),
    }
