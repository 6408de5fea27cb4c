"""RLlib's training as a trial of a sweep (`rl.sweep.trial.Trainer`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError
from ironcliw.settings import load_settings
from rl.rllib.numbers import RllibSettings
from rl.rllib.trainer import RllibTrainer, validation, write_policy
from rl.sweep.regimes import NAMED, received, received_base
from rl.sweep.trial import Tell

POLICY = "policy.npz"
_OWN = (*NAMED, "iterations", "validation_days")


def train(values: Mapping[str, Any], folder: Path, rounds: int, tell: Tell) -> None:
    """Train by RLlib; see `Trainer`.

    Args:
        values: Of `RllibSettings`; beside them `regimes` and `base` (see `rl.sweep.regimes`),
            `iterations` of a round (5) and `validation_days` of each regime (20).
        folder: Of the checkpoint, and of the policy's newest file.
        rounds: All of them.
        tell: Told of each.

    Raises:
        SettingsError: a value has no such name, or is wrong.
    """
    known = {one.name for one in fields(RllibSettings)} - {"parameters"}
    if unknown := sorted(set(values) - known - set(_OWN)):
        raise SettingsError(
            f"the training has no value {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    regimes = received(values)
    own = {name: values[name] for name in values if name in known}
    settings = RllibSettings(**own, parameters=received_base(values))
    data, each = load_settings().bench.data, int(values.get("iterations", 5))
    days = int(values.get("validation_days", 20))
    trainer = RllibTrainer(regimes, settings, str(folder), data)
    try:
        for number in range(trainer.iteration // each + 1, rounds + 1):
            trainer.train(number * each, lambda iteration, found: None, every=each)
            policy = write_policy(trainer, folder / POLICY)
            tell(number, validation(policy, regimes, days, data))
    finally:
        trainer.stop()
