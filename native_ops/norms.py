"""Normalisation of rows: LayerNorm after a residual, and RMSNorm.

T rows of width D.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from native_ops.operators import define


def add_layer_norm_reference(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """LayerNorm(x + residual) in float32, rounded once at the end."""
    total = x.float() if residual is None else x.float() + residual.float()
    normed: torch.Tensor = F.layer_norm(total, (x.shape[1],), weight, bias, epsilon)
    return normed.to(x.dtype)


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight."""
    width, shape = x.shape[-1], list(weight.shape)
    if shape != [width]:
        raise RuntimeError(
            f"ironcliw::rms_norm: weight must have {width} in dimension 0; its shape is {shape}"
        )
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + epsilon) * weight


add_layer_norm = define(
    "add_layer_norm",
    "(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float epsilon) -> Tensor",
    add_layer_norm_reference,
    lambda x, residual, weight, bias, epsilon: x.new_empty(x.shape),
)
"""x and residual float32 or bfloat16 [T, D], weight and bias float32 [D], to [T, D] as x."""

rms_norm = define(
    "rms_norm",
    "(Tensor x, Tensor weight, float epsilon) -> Tensor",
    rms_norm_reference,
    lambda x, weight, epsilon: x.new_empty(x.shape),
)
"""x float32 [T, D], weight float32 [D], to float32 [T, D]."""
