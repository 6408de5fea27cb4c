"""What a sweep is told: a TOML file.

.. code-block:: toml

    name = "first"
    rounds = 3
    samples = 12

    [fixed]
    regimes = ["rl/regimes/light.toml", "rl/regimes/busy.toml"]

    [space]
    rate = {log_uniform = [1e-4, 3e-3]}
    width = [32, 64, 128]

`trainer = "rl.rllib.trial:train"` tries numbers of RLlib's training in place of `rl.learning`'s.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ironcliw.errors import SettingsError

Value = float | int | str | bool
Point = dict[str, Value]
"""Names and values: what makes one trial."""


class Range(BaseModel):
    """Where a value comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    choice: tuple[Value, ...] | None = Field(None, min_length=1)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of choice, uniform and log_uniform, not {given or 'none'}")
        span = self.uniform or self.log_uniform
        if span is not None and not span[0] < span[1]:
            raise ValueError(f"{given[0]} is {list(span)}; the first number must be the smaller")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform is {list(self.log_uniform)}; both must be above 0")
        return self

    def draw(self, random: np.random.Generator) -> Value:
        """One value."""
        if self.choice is not None:
            return self.choice[int(random.integers(len(self.choice)))]
        if self.uniform is not None:
            return float(random.uniform(*self.uniform))
        assert self.log_uniform is not None
        low, high = (math.log(bound) for bound in self.log_uniform)
        return float(math.exp(random.uniform(low, high)))


class SweepConfig(BaseModel):
    """Trials of one training."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    trainer: str = Field(
        "rl.sweep.learning:train", description="See `rl.sweep.trial.Trainer`; loaded by name."
    )
    rounds: int = Field(ge=1, description="Of each training; it is measured after each.")
    fixed: dict[str, Any] = Field(
        default_factory=dict, description="For all trials; of `regimes` they get the tables."
    )
    space: dict[str, Annotated[Range, BeforeValidator(lambda given: _as_range(given))]] = Field(
        min_length=1
    )
    samples: int = Field(0, ge=0, le=1000, description="Drawn; 0: every combination of choices.")
    scheduler: Literal["asha", "none"] = Field(
        "asha", description="asha ends trials early that are worse (arXiv 1810.05934)."
    )
    grace: int = Field(1, ge=1, description="Rounds that asha leaves every trial.")
    concurrent: int = Field(2, ge=1, le=256, description="Trials at a time.")
    cpus: float = Field(1.0, gt=0, description="Of each trial.")
    on_spot: bool = Field(False, description="Whether trials go to Spot machines alone.")
    seed: int = Field(0, ge=0, description="Of what is drawn.")
    storage: str = Field("build/sweeps", description="Path or URI that all nodes reach.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, values in self.space.items():
            if values.choice is None and not self.samples:
                raise ValueError(
                    f"samples is 0, which takes every combination, and space.{name} is no choice; "
                    "set samples to how many are drawn"
                )
        if both := sorted(set(self.space) & set(self.fixed)):
            raise ValueError(f"{both[0]} is in space and in fixed; leave it in one of them")
        return self

    def points(self) -> list[Point]:
        """All trials, in order; the same for the same file."""
        if self.samples:
            random = np.random.default_rng(self.seed)
            return [
                {name: values.draw(random) for name, values in self.space.items()}
                for _ in range(self.samples)
            ]
        choices = [values.choice or () for values in self.space.values()]
        return [
            dict(zip(self.space, values, strict=True)) for values in itertools.product(*choices)
        ]


def read_sweep(path: Path) -> SweepConfig:
    """From a file.

    Raises:
        SettingsError: it is absent, no TOML, or holds what is wrong; names all of it.
    """
    try:
        return SweepConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise SettingsError(f"{path} is no sweep: {problems}; see rl/sweep/config.py") from error
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _as_range(given: Any) -> Any:
    """A list is a choice of what it holds."""
    return {"choice": given} if isinstance(given, list | tuple) else given
