"""What the operators of `lora_linear` check.

T rows, D inputs, O outputs and r ranks of a layer, R the sum of all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from native_ops.checks import check_tensor, need

FORWARD, BACKWARD = "lora_linear", "lora_linear_backward"
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_layers(
    operator: str,
    rows: torch.Tensor,
    dropped: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
) -> None:
    """x [T, D], dropout(x) as x, and for each layer weight [O, D] as x, a [r, D] and b [O, r]."""
    check_tensor(operator, "x", rows, FLOATS, (None, None))
    width = rows.shape[1]
    if dropped is not None:
        check_tensor(operator, "dropped", dropped, rows.dtype, rows.shape)
    need(len(weights) > 0, operator, "layers is empty; give at least one")
    for name, given in (("a", a), ("b", b)):
        rule = f"{name} must be one for each of {len(weights)} layers; they are {len(given)}"
        need(len(given) == len(weights), operator, rule)
    for at, (weight, down, up) in enumerate(zip(weights, a, b, strict=True)):
        check_tensor(operator, f"weight of layer {at}", weight, rows.dtype, (None, width))
        check_tensor(operator, f"a of layer {at}", down, FLOATS, (None, width))
        check_tensor(operator, f"b of layer {at}", up, FLOATS, (len(weight), len(down)))


def check_biases(
    rows: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]
) -> None:
    """[O] as x for each layer, or [0] where it has none; no biases at all where none has."""
    rule = f"biases must be one for each of {len(weights)} layers, or none; they are {len(biases)}"
    need(len(biases) in (0, len(weights)), FORWARD, rule)
    for at, (weight, bias) in enumerate(zip(weights, biases, strict=False)):
        size = len(weight) if bias.numel() else 0
        check_tensor(FORWARD, f"bias of layer {at}", bias, rows.dtype, (size,))


def check_gradients(
    gradients: Sequence[torch.Tensor],
    source: torch.Tensor,
    inner: torch.Tensor,
    weights: Sequence[torch.Tensor],
    a: Sequence[torch.Tensor],
) -> None:
    """[T, O] as x for each layer, and dropout(x) A^T [T, R]."""
    operator = BACKWARD
    rule = f"gradients must be one for each of {len(weights)} layers; they are {len(gradients)}"
    need(len(gradients) == len(weights), operator, rule)
    for at, (g, weight) in enumerate(zip(gradients, weights, strict=True)):
        name, size = f"gradient of layer {at}", (len(source), len(weight))
        check_tensor(operator, name, g, source.dtype, size)
    size = (len(source), sum(len(down) for down in a))
    check_tensor(operator, "inner", inner, source.dtype, size)
