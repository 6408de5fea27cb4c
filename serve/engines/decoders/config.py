"""Numbers of a config.json, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironcliw.errors import ModelLoadError
from serve.engines.decoders.projections import Activation

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


def size(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these keys that is set: a positive whole number.

    Raises:
        ModelLoadError: none is set and there is no default, or it is something else.
    """
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise ModelLoadError(
                f"config.json: {name} is {value!r} and must be a positive whole number; download "
                "the model again"
            )
        return value
    if default is None:
        raise ModelLoadError(f"config.json lacks {names[0]!r}; download the model again")
    return default


def number(config: Mapping[str, Any], name: str, default: float) -> float:
    """A positive number; raises ModelLoadError for anything else."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ModelLoadError(
            f"config.json: {name} is {value!r} and must be a positive number; download the model "
            "again"
        )
    return float(value)


def activation(name: str) -> Activation:
    """Of the feed-forward layers, by transformers' name; raises ModelLoadError for others."""
    if name not in _ACTIVATIONS:
        raise ModelLoadError(
            f"config.json asks for activation {name!r}; supported are {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]
