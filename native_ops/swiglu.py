"""SwiGLU, silu(gate) * up (Shazeer 2020, arXiv 2002.05202), each way in one pass.

Arithmetic is in float32 whatever the dtype, rounded once. Kept for the backward pass are gate and
up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from native_ops.checks import check_tensor, need
from native_ops.operators import define

_DTYPES = (torch.float32, torch.bfloat16)


def forward_step(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up [T, F]."""
    exact = _exact(gate)
    return (torch.nn.functional.silu(gate.to(exact)) * up.to(exact)).to(gate.dtype)


def backward_step(
    gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up [T, F]."""
    exact = _exact(gate)
    g, x = gradient.to(exact), gate.to(exact)
    s = torch.sigmoid(x)
    of_gate = g * up.to(exact) * (s * (1 + x * (1 - s)))
    return of_gate.to(gate.dtype), (g * (x * s)).to(gate.dtype)


def forward_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The step, once its arguments are checked."""
    _check("swiglu", gate, up)
    return forward_step(gate, up)


def backward_reference(
    gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The step, once its arguments are checked."""
    _check("swiglu_backward", gate, up)
    check_tensor("swiglu_backward", "gradient", gradient, gate.dtype, gate.shape)
    return backward_step(gradient, gate, up)


_forward = define(
    "swiglu",
    "(Tensor gate, Tensor up) -> Tensor",
    forward_reference,
    lambda gate, up: gate.new_empty(gate.shape),
)
"""gate and up float32 or bfloat16 [T, F]."""

_backward = define(
    "swiglu_backward",
    "(Tensor gradient, Tensor gate, Tensor up) -> (Tensor gate, Tensor up)",
    backward_reference,
    lambda gradient, gate, up: (gate.new_empty(gate.shape), gate.new_empty(gate.shape)),
)
"""gradient of the product; all as forward."""


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up; differentiable once.

    Args:
        gate: [..., F], float32 or bfloat16; float64 is for checks, in plain torch.
        up: As gate.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
    """
    made: torch.Tensor = _Swiglu.apply(gate, up)  # type: ignore[no-untyped-call]
    return made


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        run = forward_step if gate.dtype == torch.float64 else _forward
        found: torch.Tensor = run(_rows(gate), _rows(up))
        return found.view(gate.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        run = backward_step if gate.dtype == torch.float64 else _backward
        of_gate, of_up = run(_rows(gradient), _rows(gate), _rows(up))
        return of_gate.view(gate.shape), of_up.view(gate.shape)


def _rows(t: torch.Tensor) -> torch.Tensor:
    return t.reshape(-1, t.shape[-1])


def _check(operator: str, gate: torch.Tensor, up: torch.Tensor) -> None:
    check_tensor(operator, "gate", gate, _DTYPES, (None, None))
    need(gate.shape[1] > 0, operator, f"gate must have columns; its shape is {[*gate.shape]}")
    check_tensor(operator, "up", up, gate.dtype, gate.shape)


def _exact(t: torch.Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32
