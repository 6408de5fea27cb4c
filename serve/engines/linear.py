"""Linear layers prepared once for the machine: oneDNN's blocked bf16, or plain matrix products.

T tokens, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Protocol

import torch

_ONEDNN_ACTIVATIONS = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


class Linear(Protocol):
    """y = x W^T + b, with what follows it fused where the machine can."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] to [T, N], through the activation it was made with."""
        ...

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """[T, K] and [T, N] to [T, N]: the output plus the residual, which may be overwritten."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Bytes that weight and bias hold."""
        ...


def make_linear(weight: torch.Tensor, bias: torch.Tensor, activation: str = "none") -> Linear:
    """The fastest form for where the weight [N, K] is and what it is made of."""
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
        return BlockedLinear(weight, bias, activation)
    return PlainLinear(weight, bias, activation)


class BlockedLinear:
    """bf16 on the CPU: the weight in oneDNN's own layout, bias, activation and residual fused.

    Against F.linear, which reorders the weight in every call: twice as fast up to 64 tokens,
    1.2 times at 256 and more (Intel with AMX).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias
        self._name, self._algorithm = _ONEDNN_ACTIVATIONS[activation]
        self.resident_bytes = weight.nbytes + bias.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _pointwise(x, self._weight, self._bias, self._name, [], self._algorithm)
        return y

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _pointwise_binary(x, residual, self._weight, self._bias, "add")
        return y


_pointwise = torch.ops.mkldnn._linear_pointwise.default
_pointwise_binary = torch.ops.mkldnn._linear_pointwise.binary


class PlainLinear:
    """Any device and precision: one addmm on the transposed weight.

    On the CPU, addmm with the weight as [K, N] runs at up to twice F.linear's speed for a short
    text (MKL, 12 tokens: 105 against 59 GFLOP/s) and at the same for many tokens.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> None:
        self._weight = weight.t().contiguous()
        self._bias = bias
        self._activation = activation
        self.resident_bytes = weight.nbytes + bias.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.addmm(self._bias, x, self._weight)
        if self._activation == "none":
            return y
        if self._activation == "relu":
            return torch.relu_(y)
        approximate = "tanh" if self._activation == "gelu_tanh" else "none"
        torch.ops.aten.gelu_(y, approximate=approximate)
        return y

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        # the product accumulates onto the residual: one pass over [T, N] instead of three
        residual.add_(self._bias).addmm_(x, self._weight)
        return residual
