"""Linear layers of decoders: without bias, quantised, or gated, each in its fastest form.

T tokens, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from serve.engines.linear import Linear, make_linear
from serve.engines.rows import shape_size

Quantization = Literal["8bit", "4bit"]
_BITS: dict[Quantization, Literal[4, 8]] = {"8bit": 8, "4bit": 4}

Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]

EXACT_ROWS = 16
"""Up to so many tokens a step is not padded: there are few such sizes, and decoding uses them."""

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class Projection(Protocol):
    """[T, K] to [T, N]."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product, bias and activation included."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights hold."""
        ...


class MakeLinear:
    """Makes the layers of one model.

    Args:
        quantization: Of the weights; None keeps their precision.
    """

    def __init__(self, quantization: Quantization | None) -> None:
        self._bits: Literal[4, 8] | None = None if quantization is None else _BITS[quantization]

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
        """A linear layer of the weight [N, K]."""
        if self._bits is None:
            return unquantized(weight, bias)
        # imported here: only who asks for it needs its kernels
        from serve.engines.decoders.quantized import make_quantized_linear

        layer: Linear = make_quantized_linear(weight, bias, self._bits)
        return layer

    def activated(
        self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation
    ) -> Projection:
        """A linear layer and what follows it."""
        if self._bits is None and activation != "silu":
            return make_linear(weight, _bias(weight, bias), activation)
        return _Activated(self(weight, bias), activation)

    def gated(
        self,
        gate: torch.Tensor,
        up: torch.Tensor,
        biases: tuple[torch.Tensor, torch.Tensor] | None,
        activation: Activation,
    ) -> Projection:
        """activation(x gate^T) * (x up^T), both weights [N, K]."""
        bias = None if biases is None else torch.cat(biases)
        return _Gate(self(torch.cat((gate, up)), bias), len(gate), activation)


def unquantized(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """A linear layer in the weight's own precision."""
    return make_linear(weight, _bias(weight, bias))


def padded_rows(tokens: int, device: torch.device) -> int:
    """Rows that a step of so many tokens is given: few sizes, for each is compiled once."""
    if tokens <= EXACT_ROWS or device.type != "cpu":
        return tokens
    # 800 tokens as 896 would cost an eighth
    return -(-tokens // 32) * 32 if 512 < tokens <= 1024 else shape_size(tokens)


def _bias(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return weight.new_zeros(len(weight)) if bias is None else bias


class _Activated:
    def __init__(self, linear: Linear, activation: Activation) -> None:
        self._linear = linear
        self._function = _ACTIVATIONS[activation]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._function(self._linear(x))

    @property
    def resident_bytes(self) -> int:
        return self._linear.resident_bytes


class _Gate:
    """One product for both halves.

    oneDNN can fuse the activation and the multiplication into two products; measured at 800 tokens
    that takes 12.6 ms against 8.1 + 2.4 ms for this.
    """

    def __init__(self, linear: Linear, width: int, activation: Activation) -> None:
        self._linear = linear
        self._width = width
        self._function = _ACTIVATIONS[activation]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        both = self._linear(x)
        return self._function(both[:, : self._width]).mul_(both[:, self._width :])

    @property
    def resident_bytes(self) -> int:
        return self._linear.resident_bytes
