"""Linear layers with low-rank adapters, several of one input at once (q, k and v; gate and up).

y_i = x W_i^T + b_i + scale * (dropout(x) A_i^T) B_i^T, Hu et al. 2021 (arXiv 2106.09685), with W
and b frozen. The A of all layers are one product, additions happen inside products, and two tensors
are kept for the backward pass however many layers there are: dropout(x) and dropout(x) A^T.

This is orchestration of torch's matrix products: what is left between them is too little for a
kernel to pay. T rows, D inputs, O_i outputs and r_i ranks of layer i, R their sum. Products are in
the dtype of x: adapters in float32 over a bfloat16 model are rounded to it, their gradients are
float32. Unlike separate modules, the layers share one dropout mask, from torch's generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


class LoraLayer(NamedTuple):
    """A frozen linear layer, weight [O, D] and bias [O], and its adapter, a [r, D] and b [O, r]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor


def lora_linear(
    x: torch.Tensor,
    layers: Sequence[LoraLayer],
    scale: float,
    dropout: float = 0.0,
    training: bool = True,
) -> tuple[torch.Tensor, ...]:
    """The outputs of linear layers with adapters that share their input.

    Args:
        x: [..., D].
        layers: What is applied to it; weight and bias in the dtype of x and frozen.
        scale: Of every adapter, alpha / r.
        dropout: Chance that an input of the adapters is zeroed.
        training: Whether there is dropout.

    Returns:
        A tensor [..., O_i] for each layer, differentiable by x, a and b.

    Raises:
        ValueError: shapes or dtypes that do not fit, or a weight that wants a gradient.
    """
    _check(x, layers)
    rows = x.reshape(-1, x.shape[-1])
    dropped = F.dropout(rows, dropout) if training and dropout else None
    flat = [tensor for layer in layers for tensor in layer]
    apply: Callable[..., tuple[torch.Tensor, ...]] = _LoraLinear.apply
    outputs = apply(rows, dropped, scale, *flat)
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)


def lora_linear_reference(
    x: torch.Tensor, layers: Sequence[LoraLayer], scale: float
) -> tuple[torch.Tensor, ...]:
    """The same as the formula says it, without dropout."""
    return tuple(
        F.linear(x, weight, bias) + scale * F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype))
        for weight, bias, a, b in layers
    )


class _LoraLinear(torch.autograd.Function):
    """rows [T, D], dropped the same or None for rows; then weight, bias, a and b of each layer."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        dropped: torch.Tensor | None,
        scale: float,
        *flat: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        layers = _layers(flat)
        source = rows if dropped is None else dropped
        inner = torch.mm(source, _stacked(layers, rows.dtype).t())  # [T, R]
        outputs = []
        for (weight, bias, _, b), part in zip(layers, _blocks(inner, layers), strict=True):
            y = F.linear(rows, weight, bias)
            outputs.append(y.addmm_(part, b.to(y.dtype).t(), alpha=scale))
        ctx.scale, ctx.dropped = scale, dropped is not None
        ctx.save_for_backward(source, inner, *flat)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        source, inner, *flat = ctx.saved_tensors
        layers = _layers(flat)
        parts = [
            torch.mm(g, layer.b.to(g.dtype)) for g, layer in zip(gradients, layers, strict=True)
        ]
        d_inner = torch.cat(parts, 1).mul_(ctx.scale)  # [T, R]
        a = _stacked(layers, source.dtype)
        d_rows = d_dropped = None
        if ctx.needs_input_grad[0]:
            d_rows = _input_gradient(gradients, layers)
            if not ctx.dropped:
                d_rows.addmm_(d_inner, a)
        if ctx.needs_input_grad[1]:
            d_dropped = torch.mm(d_inner, a)
        d_a = _blocks(torch.mm(d_inner.t(), source).t(), layers)
        result: list[torch.Tensor | None] = []
        rows = zip(gradients, layers, d_a, _blocks(inner, layers), strict=True)
        for g, layer, for_a, part in rows:
            for_b = torch.mm(g.t(), part).mul_(ctx.scale)
            result += [None, None, for_a.t().to(layer.a.dtype), for_b.to(layer.b.dtype)]
        return d_rows, d_dropped, None, *result


def _layers(flat: Sequence[Any]) -> list[LoraLayer]:
    return [LoraLayer(*flat[at : at + 4]) for at in range(0, len(flat), 4)]


def _stacked(layers: Sequence[LoraLayer], dtype: torch.dtype) -> torch.Tensor:
    """All A, one below the other [R, D]."""
    return torch.cat([layer.a for layer in layers]).to(dtype)


def _blocks(inner: torch.Tensor, layers: Sequence[LoraLayer]) -> tuple[torch.Tensor, ...]:
    """Each layer's columns [..., r_i] of [..., R]."""
    return torch.split_with_sizes(inner, [len(layer.a) for layer in layers], 1)


def _input_gradient(gradients: Sequence[torch.Tensor], layers: Sequence[LoraLayer]) -> torch.Tensor:
    """Through the frozen weights: the sum of g_i W_i [T, D]."""
    total = torch.mm(gradients[0], layers[0].weight)
    for g, layer in zip(gradients[1:], layers[1:], strict=True):
        total.addmm_(g, layer.weight)
    return total


def _check(x: torch.Tensor, layers: Sequence[LoraLayer]) -> None:
    if not layers:
        raise ValueError("layers is empty; give at least one")
    for at, (weight, bias, a, b) in enumerate(layers):
        rank, outputs = a.shape[0], weight.shape[0]
        expected = {
            "weight": (weight, (outputs, x.shape[-1])),
            "bias": (bias, (outputs,)),
            "a": (a, (rank, x.shape[-1])),
            "b": (b, (outputs, rank)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} of layer {at} must be {list(shape)}; it is {list(tensor.shape)}"
                )
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None and tensor.dtype != x.dtype:
                raise ValueError(
                    f"{name} of layer {at} must be {x.dtype} as x; it is {tensor.dtype}"
                )
            if tensor is not None and tensor.requires_grad:
                raise ValueError(f"{name} of layer {at} wants a gradient; freeze it")
