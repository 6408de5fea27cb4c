"""How to learn."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError

MODELS = ("effects", "network")
_COUNTS = (
    "decisions", "members", "width", "epochs", "batch", "validation", "confirmation", "rounds",
    "searched",
)  # fmt: skip
_FROM_ZERO = ("seed", "ppo_steps", "cloned")


@dataclass(frozen=True, slots=True)
class Training:
    """How to learn; equal values give equal policies, unless the minutes run out.

    Attributes:
        seed: Of days, weights and choices.
        rounds: Of labelling decisions under the policy so far and fitting the network to them.
        decisions: Labelled in each round.
        randomised: Share of the days that are drawn from ranges of regimes (`randomised.py`).
        labelled: Share of a day's decisions that are labelled.
        explored: Share of the labelled ones after which the day goes on with a random option.
        alternatives: To the policy's choice, at most, of which the cost is simulated.
        horizon: Seconds after which a choice's cost is counted no further.
        tau: USD that a score of 1 stands for.
        reach: USD over the cheapest option, beyond which options are not weighed.
        machines: Whether decisions about machines are learned too. What one of them changes is a
            tenth of a cent, the deviation of a label some ten cents.
        model: What is fitted to labels: `effects`, some thirty numbers by ridge regression
            (`ridge.py`), or `network` (`network.py`).
        margins: Of scores, tried on days of validation.
        shrinks: Shares of what was learned, tried with each margin.
        width: Units of each of the two hidden layers of a member.
        members: Networks that are averaged.
        epochs: Over all labels.
        batch: Decisions of an optimizer's step.
        rate: Of learning, at its start.
        winsor: USD beyond which a label is cut; a mean is to be learned, so it is far out.
        trust: Share of a label's part of the step's own workflow that is taken from the base's
            belief instead: 0 learns the whole cost, 1 only what others gain or lose.
        decay: Of weights.
        validation: Days of each regime on which policies are chosen.
        confirmation: Other days of each on which the chosen one has to cost less than its base,
            with 95 % confidence; else nothing of it is kept.
        cloned: Days of which the clairvoyant search's plans are copied before the rounds (behaviour
            cloning, `cloning.py`); 0 for none. It fits a network.
        searched: Simulations of such a day.
        ppo_steps: Decisions of MaskablePPO after the rounds; 0 for none. It goes on from a network.
        most_dollars: Money for machines, by the base's, that is not to be passed.
        minutes: After which learning makes an end of what it does.
    """

    seed: int = 0
    rounds: int = 1
    decisions: int = 8_000
    randomised: float = 0.25
    labelled: float = 0.25
    explored: float = 0.1
    alternatives: int = 3
    horizon: float = 3600.0
    tau: float = 0.02
    reach: float = 0.03
    machines: bool = False
    model: str = "effects"
    margins: tuple[float, ...] = (0.3, 0.5)
    shrinks: tuple[float, ...] = (0.5, 1.0)
    width: int = 32
    members: int = 8
    epochs: int = 6
    batch: int = 512
    rate: float = 1e-3
    winsor: float = 0.5
    trust: float = 1.0
    decay: float = 0.1
    validation: int = 60
    confirmation: int = 200
    cloned: int = 0
    searched: int = 60
    ppo_steps: int = 0
    most_dollars: float = 1.05
    minutes: float = 55.0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise SettingsError(f"training: {name} is {getattr(self, name)}; give 1 or more")
        for name in _FROM_ZERO:
            if getattr(self, name) < 0:
                raise SettingsError(f"training: {name} is {getattr(self, name)}; give 0 or more")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"training: {field.name} is {value}; give a number from 0")
        for name in ("margins", "shrinks"):
            given = getattr(self, name)
            if not given or not all(0 <= one < math.inf for one in given):
                raise SettingsError(
                    f"training: {name} is {list(given)}; give one number from 0 at the least"
                )
        self._check_model()

    def _check_model(self) -> None:
        if self.model not in MODELS:
            raise SettingsError(
                f"training: model is {self.model!r}; it must be one of {', '.join(MODELS)}"
            )
        if self.ppo_steps and self.model != "network":
            raise SettingsError(
                f"training: ppo_steps is {self.ppo_steps}, and PPO goes on from a network; set "
                'model to "network"'
            )
        if self.cloned and self.model != "network":
            raise SettingsError(
                f"training: cloned is {self.cloned}, and a network is fitted to plans; set model "
                'to "network"'
            )
        for name in ("tau", "horizon", "labelled", "rate", "minutes", "winsor"):
            if getattr(self, name) == 0:
                raise SettingsError(f"training: {name} is 0; give a number above 0")

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Training:
        """From a table, such as a file's.

        Raises:
            SettingsError: an unknown name, or a value of another kind than its default.
        """
        kinds = {field.name: type(field.default) for field in fields(cls)}
        found: dict[str, Any] = {}
        for name, value in values.items():
            if name not in kinds:
                raise SettingsError(
                    f"{where}: training has no value {name!r}; it has {', '.join(sorted(kinds))}"
                )
            try:
                found[name] = tuple(map(float, value)) if kinds[name] is tuple else value
                wrong = kinds[name] in (int, bool) and type(value) is not kinds[name]
                if kinds[name] is float:
                    found[name] = float(value)
            except (TypeError, ValueError):
                wrong = True
            wrong |= isinstance(value, bool | str) and kinds[name] not in (bool, str)
            wrong |= kinds[name] is str and not isinstance(value, str)
            if wrong:
                raise SettingsError(
                    f"{where}: training value {name} is {value!r}; it must be "
                    + {tuple: "a list of numbers", bool: "true or false", str: "text"}.get(
                        kinds[name], "a whole number" if kinds[name] is int else "a number"
                    )
                )
        return cls(**found)

    @classmethod
    def load(cls, path: Path) -> Training:
        """From the table `training` of a TOML file.

        Raises:
            SettingsError: the file cannot be read, is not TOML or has no such table; see `of`.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path} cannot be read ({error.strerror})") from error
        except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError
            raise SettingsError(f"{path} is not TOML: {error}") from error
        values = table.get("training")
        if not isinstance(values, dict):
            raise SettingsError(f"{path} has no table [training]; see rl/learning/plan.py")
        return cls.of(values, str(path))

    def as_dict(self) -> dict[str, Any]:
        """By name, for a policy file."""
        return {**asdict(self), "margins": list(self.margins), "shrinks": list(self.shrinks)}
