"""Linear layers with low-rank adapters, several of one input at once (q, k and v; gate and up).

y_i = x W_i^T + b_i + scale * (dropout(x) A_i^T) B_i^T, Hu et al. 2021 (arXiv 2106.09685), with W
and b frozen. The A of all layers are one product, additions happen inside products, and two tensors
are kept for the backward pass however many layers there are: dropout(x) and dropout(x) A^T.

This is orchestration of torch's matrix products: what is left between them is too little for a
kernel to pay, so that the operators `lora_linear` and `lora_linear_backward` have no compiled one.
Products are in the dtype of x: adapters in float32 over a bfloat16 model are rounded to it, their
gradients are float32. Unlike separate modules, the layers share one dropout mask, from torch's
generator.

T rows, D inputs, O_i outputs and r_i ranks of layer i, R their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from native_ops.checks import check_size, need
from native_ops.lora_checks import (
    BACKWARD,
    FORWARD,
    check_biases,
    check_gradients,
    check_layers,
)
from native_ops.operators import define

Gradients = tuple[torch.Tensor | None, ...]


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
        RuntimeError: shapes or dtypes that do not fit, or a weight that wants a gradient.
    """
    need(bool(layers), FORWARD, "layers is empty; give at least one")
    for at, layer in enumerate(layers):
        for name, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            wants = tensor is not None and tensor.requires_grad
            need(not wants, FORWARD, f"{name} of layer {at} wants a gradient; freeze it")
        if layer.bias is not None and layer.bias.dim() == 1:  # an empty one would mean none
            check_size(FORWARD, f"bias of layer {at}", layer.bias, 0, len(layer.weight))
    rows = x.reshape(-1, x.shape[-1])
    dropped = F.dropout(rows, dropout) if training and dropout else None
    weights, biases, a, b = (list(part) for part in zip(*layers, strict=True))
    if all(bias is None for bias in biases):
        biases = []
    biases = [w.new_empty(0) if v is None else v for w, v in zip(weights, biases, strict=False)]
    outputs, _ = _forward(rows, dropped, scale, weights, biases, a, b)
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)


def _forward_reference(
    rows: torch.Tensor,
    dropped: torch.Tensor | None,
    scale: float,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each layer's output [T, O_i], and for the backward pass dropout(x) A^T [T, R]."""
    check_layers(FORWARD, rows, dropped, weights, a, b)
    check_biases(rows, weights, biases)
    source = rows if dropped is None else dropped
    inner = torch.mm(source, _stacked(a, rows.dtype).t())
    outputs = []
    for at, (weight, up, part) in enumerate(zip(weights, b, _blocks(inner, a), strict=True)):
        bias = biases[at] if biases and biases[at].numel() else None
        y = F.linear(rows, weight, bias)
        outputs.append(y.addmm_(part, up.to(y.dtype).t(), alpha=scale))
    return outputs, inner


def _backward_reference(
    gradients: Sequence[torch.Tensor],
    source: torch.Tensor,
    inner: torch.Tensor,
    scale: float,
    weights: Sequence[torch.Tensor],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    for_rows: bool,
    shared: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Gradients of x and of dropout(x) [T, D], of all A [R, D], and of each B [O_i, r_i].

    Of x alone where the two are one (`shared`); what is not asked for is [0, D].
    """
    check_layers(BACKWARD, source, None, weights, a, b)
    check_gradients(gradients, source, inner, weights, a)
    parts = [torch.mm(g, up.to(g.dtype)) for g, up in zip(gradients, b, strict=True)]
    d_inner = torch.cat(parts, 1).mul_(scale)  # [T, R]
    stacked = _stacked(a, source.dtype)
    d_rows = (
        _input_gradient(gradients, weights) if for_rows else source.new_empty(0, source.shape[1])
    )
    d_dropped = source.new_empty(0, source.shape[1])
    if not shared:
        d_dropped = torch.mm(d_inner, stacked)
    elif for_rows:
        d_rows.addmm_(d_inner, stacked)
    d_a = torch.mm(d_inner.t(), source)
    kept = zip(gradients, _blocks(inner, a), strict=True)
    return d_rows, d_dropped, d_a, [torch.mm(g.t(), part).mul_(scale) for g, part in kept]


_forward = define(
    FORWARD,
    "(Tensor rows, Tensor? dropped, float scale, Tensor[] weights, Tensor[] biases, Tensor[] a, "
    "Tensor[] b) -> (Tensor[] outputs, Tensor inner)",
    _forward_reference,
    lambda rows, dropped, scale, weights, biases, a, b: (
        [rows.new_empty(len(rows), len(weight)) for weight in weights],
        rows.new_empty(len(rows), sum(len(down) for down in a)),
    ),
)

_backward = define(
    BACKWARD,
    "(Tensor[] gradients, Tensor source, Tensor inner, float scale, Tensor[] weights, Tensor[] a, "
    "Tensor[] b, bool for_rows, bool shared) -> "
    "(Tensor rows, Tensor dropped, Tensor a, Tensor[] b)",
    _backward_reference,
    lambda gradients, source, inner, scale, weights, a, b, for_rows, shared: (
        source.new_empty(source.shape if for_rows else (0, source.shape[1])),
        source.new_empty((0, source.shape[1]) if shared else source.shape),
        source.new_empty(sum(len(down) for down in a), source.shape[1]),
        [source.new_empty(up.shape) for up in b],
    ),
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    rows, dropped, ctx.scale, weights, biases, a, b = inputs
    ctx.layers, ctx.biases, ctx.shared = len(weights), len(biases), dropped is None
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(rows if dropped is None else dropped, output[1], *weights, *a, *b)


@once_differentiable
def _flat_gradients(ctx: Any, *given: torch.Tensor | None) -> Gradients:
    """Of x and dropout(x), then of each a, then of each b."""
    source, inner, *rest = ctx.saved_tensors
    weights, a, b = (rest[at * ctx.layers :][: ctx.layers] for at in range(3))
    gradients = [
        source.new_zeros(len(source), len(weight)) if g is None else g
        for g, weight in zip(given, weights, strict=True)
    ]
    d_rows, d_dropped, d_a, d_b = _backward(
        gradients, source, inner, ctx.scale, weights, a, b, ctx.needs_input_grad[0], ctx.shared
    )
    downs = torch.split_with_sizes(d_a, [len(down) for down in a])
    return (
        d_rows if ctx.needs_input_grad[0] else None,
        None if ctx.shared else d_dropped,
        *(d.to(down.dtype) for d, down in zip(downs, a, strict=True)),
        *(d.to(up.dtype) for d, up in zip(d_b, b, strict=True)),
    )


def _gradients(ctx: Any, outputs: list[torch.Tensor | None], _: None) -> tuple[Any, ...]:
    d_rows, d_dropped, *adapters = _flat_gradients(ctx, *outputs)
    a, b = adapters[: ctx.layers], adapters[ctx.layers :]
    return d_rows, d_dropped, None, [None] * ctx.layers, [None] * ctx.biases, a, b


torch.library.register_autograd(f"ironcliw::{FORWARD}", _gradients, setup_context=_save)


def lora_linear_reference(
    x: torch.Tensor, layers: Sequence[LoraLayer], scale: float
) -> tuple[torch.Tensor, ...]:
    """The same as the formula says it, without dropout."""
    return tuple(
        F.linear(x, weight, bias) + scale * F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype))
        for weight, bias, a, b in layers
    )


def _stacked(a: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """All A, one below the other [R, D]."""
    return torch.cat(list(a)).to(dtype)


def _blocks(inner: torch.Tensor, a: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Each layer's columns [T, r_i] of [T, R]."""
    return torch.split_with_sizes(inner, [len(down) for down in a], 1)


def _input_gradient(
    gradients: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Through the frozen weights: the sum of g_i W_i [T, D]."""
    total = torch.mm(gradients[0], weights[0])
    for g, weight in zip(gradients[1:], weights[1:], strict=True):
        total.addmm_(g, weight)
    return total
