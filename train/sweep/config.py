"""What `ironcliw train tune` is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ironcliw.errors import SettingsError
from train.config import TrainingConfig, make_config
from train.config_file import put, read_mapping, validated
from train.evaluation.gate import lower_is_better

Value = float | int | str | bool
Point = dict[str, Value]
"""Dotted keys of a run's configuration and their values: what makes one trial of a sweep."""

SEARCHED = frozenset(
    {"lora_rank", "lora_alpha", "lora_dropout", "use_rslora", "use_dora"}
    | {"learning_rate", "schedule", "warmup_steps", "warmup_share", "batch_size"}
    | {"beta1", "beta2", "epsilon", "weight_decay", "clip_norm", "seed"}
    | {f"preference.{name}" for name in ("beta", "loss", "label_smoothing", "gamma")}
)
"""Keys that change neither the data, nor the model, nor where a run goes."""
_CHANGES_MEANING = {
    "eval_loss": {f"preference.{name}" for name in ("beta", "loss", "label_smoothing", "gamma")},
    "reward_margin": {"preference.beta", "preference.loss"},  # rewards are beta times something
    "reward_accuracy": {"preference.loss"},  # simpo's rewards are against no reference
}
"""Measures that mean something else in each trial where one of these keys differs."""


class Range(BaseModel):
    """Where a key's values come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    choice: tuple[Value, ...] | None = Field(None, min_length=1, description="One of these.")
    uniform: tuple[float, float] | None = Field(None, description="Between two numbers.")
    log_uniform: tuple[float, float] | None = Field(
        None, description="Between two numbers, every order of magnitude as likely as another."
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of choice, uniform and log_uniform, not {given or 'none'}")
        span = self.uniform or self.log_uniform
        if span is not None and not span[0] < span[1]:
            raise ValueError(
                f"{given[0]} is {list(span)}; the first number must be the smaller one"
            )
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform is {list(self.log_uniform)}; both must be above 0")
        return self


class SweepConfig(BaseModel):
    """Trials of one run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="The same name again resumes the sweep.",
    )
    run: dict[str, Any] = Field(
        description="Keys of a run's configuration, for all trials; or the file that has them."
    )
    changes: dict[str, Any] = Field(
        default_factory=dict, description="Dotted keys of the run that are changed for all trials."
    )
    space: dict[str, Annotated[Range, BeforeValidator(lambda given: _as_range(given))]] = Field(
        min_length=1, description="Keys that differ, and where their values come from."
    )
    samples: int = Field(
        0, ge=0, le=1000, description="Trials that are drawn; 0: every combination of choices."
    )
    metric: str = Field("eval_loss", description="What is compared: a measure of held-out rows.")
    scheduler: Literal["asha", "none"] = Field(
        "asha",
        description="asha ends trials early that are worse than others after as many epochs "
        "(arXiv 1810.05934); none lets all of them end by themselves.",
    )
    grace_epochs: int = Field(1, ge=1, description="Epochs that asha leaves every trial.")
    reduction_factor: float = Field(
        3.0, gt=1, description="asha lets one of so many go on at each of its decisions."
    )
    concurrent: int = Field(1, ge=1, le=256, description="Trials at a time.")
    seed: int = Field(0, ge=0, description="Of what is drawn.")
    storage: str = Field("", description="Folder or URI; empty: below the state directory.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key, values in self.space.items():
            if key not in SEARCHED:
                raise ValueError(
                    f"space has the key {key!r}; what can differ between trials is "
                    f"{', '.join(sorted(SEARCHED))}"
                )
            if values.choice is None and not self.samples:
                raise ValueError(
                    f"samples is 0, which takes every combination, and space.{key} is no choice; "
                    "set samples to how many are drawn"
                )
        self._can_be_ranked()
        return self

    def _can_be_ranked(self) -> None:
        changed = sorted(_CHANGES_MEANING.get(self.metric, set()) & self.space.keys())
        if changed:
            raise ValueError(
                f"metric is {self.metric!r} and space has {', '.join(changed)}, with which "
                f"{self.metric} means something else in each trial: the largest or the smallest "
                "value would win; set metric to 'preference_accuracy'"
            )

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which way the metric points."""
        return "min" if lower_is_better(self.metric) else "max"

    def trial(self, point: Mapping[str, Value]) -> TrainingConfig:
        """The configuration of the run at a point of the space.

        Raises:
            SettingsError: a key or value is wrong.
        """
        given = _copied(self.run)
        for key, value in {**self.changes, **point}.items():
            put(given, key, value)
        shown = ", ".join(f"{key}={value}" for key, value in point.items())
        config = make_config(given, f"sweep {self.name}, {shown or 'run'}")
        if config.embedding is not None:
            raise SettingsError(
                f"sweep {self.name}: the run has a section embedding, and trials are of answers or "
                "preferences; try numbers of an embedding model with `ironcliw train embed --set`"
            )
        if config.workers > 1:
            raise SettingsError(
                f"sweep {self.name}: workers is {config.workers}; a trial has one, and `concurrent`"
                " says how many trials go on at a time"
            )
        if config.publish is not None:
            raise SettingsError(
                f"sweep {self.name}: publish of the run is {config.publish!r}, and trials are not "
                "published; take it out of the run, or set publish to null in `changes`, and "
                "publish the best trial by its folder with `ironcliw train publish`"
            )
        return config


def read_sweep(path: Path, changes: Mapping[str, Any] | None = None) -> SweepConfig:
    """Of a YAML file.

    Args:
        path: The file.
        changes: Dotted key to value; `run` is another file, `run.seed` a key of it.

    Raises:
        SettingsError: as `train.config.read_config`.
    """
    given = read_mapping(path)
    changes = dict(changes or {})
    if "run" in changes:
        given["run"] = changes.pop("run")
    if isinstance(given.get("run"), str):
        # a file of `train sft` or `dpo`, by its path
        file = given["run"]
        called = f"run of {path} is {file!r}, a path from {Path.cwd()}"
        given["run"] = read_mapping(Path(file), source=called)
    for key, value in changes.items():
        put(given, key, value)
    return validated(SweepConfig, given, str(path))


def better(mode: str, left: float, right: float) -> bool:
    """Whether a measure beats another; one that is no number beats none."""
    if not math.isfinite(left):
        return False
    return not math.isfinite(right) or (left < right if mode == "min" else left > right)


def _as_range(given: Any) -> Any:
    """A list is a choice of what it holds."""
    return {"choice": given} if isinstance(given, list | tuple) else given


def _copied(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copied(value) if isinstance(value, Mapping) else value for key, value in given.items()
    }
