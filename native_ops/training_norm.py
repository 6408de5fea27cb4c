"""RMSNorm of training, with the addition before it: forward, and a backward pass of its own.

y = total / sqrt(mean(total^2) + epsilon) * weight with total = x + residual (Zhang and Sennrich
2019, arXiv 1910.07467). Arithmetic is in float32 whatever the dtype, rounded once; what a residual
stream needs besides, the sum forward and the sum of two gradients backward, costs no pass of its
own. One number a row is kept for the backward pass. A gradient for the weight is computed where one
is wanted.

T rows of width D. The kernels give the same bits for any number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from native_ops.checks import check_tensor, need
from native_ops.operators import define

FORWARD, BACKWARD = "add_rms_norm", "add_rms_norm_backward"
_DTYPES = (torch.float32, torch.bfloat16)


def forward_step(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """total [T, D], or [0, D] without a residual; y [T, D]; the inverse root [T]."""
    exact = _exact(x)
    total = x if residual is None else (x.to(exact) + residual.to(exact)).to(x.dtype)
    values = total.to(exact)
    inverse = torch.rsqrt(values.square().mean(1) + epsilon)
    y = (values * inverse[:, None] * weight.to(exact)).to(x.dtype)
    return (x.new_empty(0, x.shape[1]) if residual is None else total), y, inverse


def backward_step(
    gradient: torch.Tensor,
    added: torch.Tensor | None,
    total: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
    for_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of total [T, D], and of the weight [D] or [0]."""
    exact = inverse.dtype
    normed = total.to(exact) * inverse[:, None]
    inner = gradient.to(exact) * weight.to(exact)
    found = (inner - normed * (inner * normed).mean(1, keepdim=True)) * inverse[:, None]
    if added is not None:
        found = found + added.to(exact)
    of_weight = (gradient.to(exact) * normed).sum(0) if for_weight else inverse.new_empty(0)
    return found.to(total.dtype), of_weight


def forward_reference(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The step, once its arguments are checked."""
    _check_values(FORWARD, "x", x)
    if residual is not None:
        check_tensor(FORWARD, "residual", residual, x.dtype, x.shape)
    check_tensor(FORWARD, "weight", weight, x.dtype, x.shape[1:])
    return forward_step(x, residual, weight, epsilon)


def backward_reference(
    gradient: torch.Tensor,
    added: torch.Tensor | None,
    total: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
    for_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The step, once its arguments are checked."""
    _check_values(BACKWARD, "total", total)
    check_tensor(BACKWARD, "gradient", gradient, total.dtype, total.shape)
    if added is not None:
        check_tensor(BACKWARD, "added", added, total.dtype, total.shape)
    check_tensor(BACKWARD, "weight", weight, total.dtype, total.shape[1:])
    check_tensor(BACKWARD, "inverse", inverse, torch.float32, total.shape[:1])
    return backward_step(gradient, added, total, weight, inverse, for_weight)


_forward = define(
    FORWARD,
    "(Tensor x, Tensor? residual, Tensor weight, float epsilon) -> "
    "(Tensor total, Tensor y, Tensor inverse)",
    forward_reference,
    lambda x, residual, weight, epsilon: (
        x.new_empty((0, x.shape[1]) if residual is None else x.shape),
        x.new_empty(x.shape),
        x.new_empty(x.shape[0], dtype=torch.float32),
    ),
)
"""x and residual float32 or bfloat16 [T, D], weight [D] as x."""

_backward = define(
    BACKWARD,
    "(Tensor gradient, Tensor? added, Tensor total, Tensor weight, Tensor inverse, "
    "bool for_weight) -> (Tensor x, Tensor weight)",
    backward_reference,
    lambda gradient, added, total, weight, inverse, for_weight: (
        total.new_empty(total.shape),
        total.new_empty(total.shape[1] if for_weight else 0, dtype=torch.float32),
    ),
)
"""gradient of y; added, of total by other ways; total and weight as forward; inverse fp32 [T]."""


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum x + residual, and its RMSNorm; differentiable once.

    Use both: gradients that reach the sum and the norm are added in one pass.

    Args:
        x: [..., D], float32 or bfloat16; float64 is for checks, in plain torch.
        residual: As x; None: the sum is x.
        weight: [D] as x; its gradient is computed where it wants one.
        epsilon: Added to the mean square.

    Returns:
        Two tensors [..., D].

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
    """
    made: tuple[torch.Tensor, torch.Tensor] = _AddNorm.apply(x, residual, weight, epsilon)  # type: ignore[no-untyped-call]
    return made


def rms_norm_of(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm of x [..., D] alone; otherwise as `add_rms_norm`."""
    made: torch.Tensor = _Norm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return made


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        epsilon: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        run = forward_step if x.dtype == torch.float64 else _forward
        rows = x.reshape(-1, x.shape[-1])
        others = None if residual is None else residual.reshape(-1, residual.shape[-1])
        total, y, inverse = run(rows, others, weight, epsilon)
        ctx.is_sum = residual is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total if ctx.is_sum else rows, weight, inverse)
        return (total.view(x.shape) if ctx.is_sum else x), y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, added: torch.Tensor | None, gradient: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None]:
        if gradient is None:
            return added, (added if ctx.is_sum else None), None, None
        found, of_weight = _gradients(ctx, gradient, added, ctx.needs_input_grad[2])
        return found, (found if ctx.is_sum else None), of_weight, None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        run = forward_step if x.dtype == torch.float64 else _forward
        rows = x.reshape(-1, x.shape[-1])
        _, y, inverse = run(rows, None, weight, epsilon)
        ctx.save_for_backward(rows, weight, inverse)
        found: torch.Tensor = y.view(x.shape)
        return found

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        return *_gradients(ctx, gradient, None, ctx.needs_input_grad[1]), None


def _gradients(
    ctx: Any, gradient: torch.Tensor, added: torch.Tensor | None, for_weight: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    total, weight, inverse = ctx.saved_tensors
    run = backward_step if total.dtype == torch.float64 else _backward
    others = None if added is None else added.reshape(total.shape)
    found, of_weight = run(
        gradient.reshape(total.shape), others, total, weight, inverse, for_weight
    )
    return found.view(gradient.shape), (of_weight.to(weight.dtype) if for_weight else None)


def _check_values(operator: str, name: str, x: torch.Tensor) -> None:
    check_tensor(operator, name, x, _DTYPES, (None, None))
    need(x.shape[1] > 0, operator, f"{name} must have columns; its shape is {[*x.shape]}")


def _exact(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
