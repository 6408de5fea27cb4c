"""Normalisation of rows: LayerNorm after a residual, and RMSNorm.

T rows of width D.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from native_ops.checks import check_tensor, need
from native_ops.operators import define


def add_layer_norm_reference(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """LayerNorm(x + residual) in float32, rounded once at the end."""
    operator = "add_layer_norm"
    _check(operator, x, (torch.float32, torch.bfloat16), weight)
    check_tensor(operator, "bias", bias, torch.float32, (x.shape[1],))
    if residual is not None:
        check_tensor(operator, "residual", residual, x.dtype, x.shape)
    total = x.float() if residual is None else x.float() + residual.float()
    normed: torch.Tensor = F.layer_norm(total, (x.shape[1],), weight, bias, epsilon)
    return normed.to(x.dtype)


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight."""
    _check("rms_norm", x, (torch.float32,), weight)
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + epsilon) * weight


def _check(
    operator: str, x: torch.Tensor, dtypes: tuple[torch.dtype, ...], weight: torch.Tensor
) -> None:
    check_tensor(operator, "x", x, dtypes, (None, None))
    need(x.shape[1] > 0, operator, f"x must have columns; its shape is {[*x.shape]}")
    check_tensor(operator, "weight", weight, torch.float32, (x.shape[1],))


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
