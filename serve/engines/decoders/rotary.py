"""Rotary position embedding (https://arxiv.org/abs/2104.09864), as products of complex numbers.

Checkpoints pair dimension i with i + d/2; here the rows of the projections are reordered once, so
that a pair stands together and is one complex number. Scores do not change, for queries and keys
are reordered alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ironcliw.errors import ModelLoadError

SCALINGS = ("default", "linear", "llama3")


def frequencies(config: Mapping[str, Any], width: int) -> torch.Tensor:
    """float32 [width / 2], the angle that each pair turns by from one position to the next.

    Args:
        config: config.json, with `rope_parameters` (transformers 5) or `rope_theta` and
            `rope_scaling` (before).
        width: Of a head.

    Raises:
        ModelLoadError: a scaling that is not supported, or one that lacks a number.
    """
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in SCALINGS:
        raise ModelLoadError(
            f"config.json asks for rope scaling {kind!r}; supported are {', '.join(SCALINGS)}"
        )
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelLoadError(
            "config.json turns a part of each head alone (partial_rotary_factor), which is not "
            "supported"
        )
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    # in transformers' order of operations: far positions magnify a difference in the last bit
    plain = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    try:
        if kind == "linear":
            return plain / float(rope["factor"])
        return _llama3(plain, rope, config) if kind == "llama3" else plain
    except KeyError as error:
        raise ModelLoadError(
            f"config.json: rope scaling {kind!r} needs {error}; download the model again"
        ) from error


def _llama3(
    plain: torch.Tensor, rope: Mapping[str, Any], config: Mapping[str, Any]
) -> torch.Tensor:
    """Long waves slowed by a factor, short ones kept, a smooth passage between.

    transformers 5.23, modeling_rope_utils.py, _compute_llama3_parameters.
    """
    factor, low, high = (
        float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    trained = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
    turns = float(trained) * plain / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * plain / factor + share * plain


def pairs_together(weight: torch.Tensor, width: int) -> torch.Tensor:
    """Rows [heads width, ...] with the pairs (i, i + width / 2) of each head side by side."""
    halves = weight.view(-1, 2, width // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


class Rotary:
    """Turns queries and keys by their positions.

    Args:
        frequencies: float32 [d / 2].
        device: Where to compute.
    """

    def __init__(self, frequencies: torch.Tensor, device: torch.device) -> None:
        self._frequencies = frequencies.to(device)

    def turns(self, positions: torch.Tensor) -> torch.Tensor:
        """int64 [N] to complex64 [N, 1, d / 2]."""
        angles = positions[:, None, None] * self._frequencies
        return torch.polar(torch.ones_like(angles), angles)

    @staticmethod
    def apply(heads: torch.Tensor, turns: torch.Tensor) -> None:
        """Turn [N, H, d / 2, 2] in place, in fp32."""
        wide = torch.view_as_complex(heads.to(torch.float32, copy=True))
        heads.copy_(torch.view_as_real(wide.mul_(turns)))
