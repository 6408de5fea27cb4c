"""AdamW over one vector of parameters, and its state as tensors to save."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from ironcliw.errors import CheckpointError, SettingsError
from train.config import TrainingConfig

PREFIX = "optimizer/"
"""Of the names of its tensors."""


class Trained(Protocol):
    """What is trained, as vectors [P]: `FlatParameters`, or a worker's pieces of it."""

    values: torch.Tensor
    gradient: torch.Tensor

    def __len__(self) -> int: ...

    def norm(self) -> float:
        """Of the whole gradient."""
        ...


class Optimizer:
    """Steps a `FlatParameters`.

    Args:
        flat: The parameters and where their gradient is.
        config: Kind, betas, epsilon, weight decay and the largest norm.

    Raises:
        SettingsError: `adamw8bit` without CUDA or without bitsandbytes.
    """

    def __init__(self, flat: Trained, config: TrainingConfig) -> None:
        self._flat = flat
        self._clip = config.clip_norm
        self._parameter = torch.nn.Parameter(flat.values)
        self._parameter.grad = flat.gradient
        self._inner = _make([self._parameter], config, flat.values.device)

    def step(self, learning_rate: float, divisor: float) -> float:
        """One step.

        Args:
            learning_rate: Of this step.
            divisor: What the summed gradient is divided by: the batch's supervised tokens.

        Returns:
            The norm of the gradient before it was cut; where it is not finite, nothing was changed.
        """
        gradient = self._flat.gradient
        gradient.div_(divisor)
        norm = self._flat.norm()
        if norm != norm or norm == float("inf"):
            return norm
        if self._clip is not None and norm > self._clip:
            gradient.mul_(self._clip / (norm + 1e-6))
        for group in self._inner.param_groups:
            group["lr"] = learning_rate
        self._inner.step()
        return norm

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its state by name, for a checkpoint; empty before the first step."""
        state: Mapping[str, Any] = self._inner.state.get(self._parameter, {})
        return {
            f"{PREFIX}{key}": value
            for key, value in state.items()
            if isinstance(value, torch.Tensor)
        }

    def numbers(self) -> dict[str, Any]:
        """The part of its state that is no tensor."""
        state: Mapping[str, Any] = self._inner.state.get(self._parameter, {})
        return {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}

    def restore(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
        """Put a saved state back.

        Raises:
            CheckpointError: it is not of these parameters.
        """
        found = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(PREFIX)
        }
        length = len(self._flat)
        for key in ("exp_avg", "exp_avg_sq"):
            if key in found and found[key].numel() != length:
                raise CheckpointError(
                    f"the optimizer's {key} has {found[key].numel()} numbers, and the run trains "
                    f"{length}; resume with the configuration that it was saved with"
                )
        device = self._flat.values.device
        self._inner.state[self._parameter] = {
            **{
                # torch keeps the count of steps on the CPU
                key: value.clone() if value.numel() == 1 else value.to(device, copy=True)
                for key, value in found.items()
            },
            **numbers,
        }


def _make(
    parameters: list[torch.nn.Parameter], config: TrainingConfig, device: torch.device
) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=0.0,
            betas=betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
    if device.type != "cuda":
        raise SettingsError(
            f"optimizer is 'adamw8bit', which needs CUDA, and this run is on {device.type}; "
            "choose 'adamw'"
        )
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise SettingsError(
            "optimizer is 'adamw8bit' and bitsandbytes is not installed: pip install "
            "'ironcliw[cuda]'"
        ) from error
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        parameters,
        lr=0.0,
        betas=betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )
    return made
