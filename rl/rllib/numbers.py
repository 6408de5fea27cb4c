"""The numbers of a training by RLlib; without Ray, so that a command can check them first."""

from __future__ import annotations

from dataclasses import dataclass, field

from ironcliw.errors import SettingsError
from rl.parameters import Parameters, load_parameters


@dataclass(frozen=True, slots=True)
class RllibSettings:
    """How to train.

    Attributes:
        seed: Of the weights, the days' order and the draws.
        days: Of each regime, of the set for training.
        randomised: Share of the days that are drawn from ranges of regimes.
        decisions: In an iteration, over all runners.
        runners: Processes that simulate; 0: the program itself does.
        environments: In each of them.
        on_spot: Whether runners go to Spot machines alone.
        hidden: Units of a layer.
        tau: USD that a score of 1 stands for.
        reach: USD; what costs so much more than the cheapest is not weighed.
        learning_rate: Of Adam.
        passes: Over an iteration's decisions.
        clip: Of PPO's ratio.
        entropy: Weight of the entropy.
        kl: Weight of the divergence from the policy of the iteration before.
        horizon: Discount of the next decision: 0.99 looks some hundred decisions ahead.
        machines: Whether decisions about machines are learned too.
        margin: Written into the file, see `rl.policy_file`.
        parameters: Of the base.
    """

    seed: int = 0
    days: int = 1000
    randomised: float = 0.25
    decisions: int = 4000
    runners: int = 0
    environments: int = 4
    on_spot: bool = False
    hidden: int = 64
    tau: float = 0.02
    reach: float = 0.1
    learning_rate: float = 1e-4
    passes: int = 4
    clip: float = 0.1
    entropy: float = 0.0
    kl: float = 0.2
    horizon: float = 0.99
    machines: bool = False
    margin: float = 0.0
    parameters: Parameters = field(default_factory=load_parameters)

    def __post_init__(self) -> None:
        for name in ("days", "decisions", "environments", "hidden", "passes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("tau", "reach", "learning_rate", "clip"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise SettingsError(f"{name} is {value}; it must lie between 0 and 1")
        if not 0 <= self.randomised <= 1:
            raise SettingsError(f"randomised is {self.randomised}; give a share from 0 to 1")
        if self.runners < 0:
            raise SettingsError(f"runners is {self.runners}; give 0 or more")
