"""Low-rank updates of the rows of one batch under different adapters.

Shapes: M rows, K inputs, N outputs, L adapters, R ranks of the largest adapter.
"""

from __future__ import annotations

import torch

from native_ops.checks import check_dtype, check_tensor, need
from native_ops.operators import define

NO_ADAPTER = -1
"""In place of an adapter's id: the row stays as it is."""


def grouped_lora_reference(
    x: torch.Tensor,
    y: torch.Tensor,
    a_weights: torch.Tensor,
    b_weights: torch.Tensor,
    ranks: torch.Tensor,
    scales: torch.Tensor,
    adapter: torch.Tensor,
) -> None:
    """Adapter by adapter, in float32."""
    _check(x, y, a_weights, b_weights, ranks, scales, adapter)
    for index in sorted(set(adapter.tolist())):
        if index == NO_ADAPTER:
            continue
        rank = int(ranks[index])
        rows = torch.where(adapter == index)[0]
        hidden = x[rows] @ a_weights[index, :rank].float().T * scales[index]
        # in one layout: a product's last bit may depend on it
        y[rows] += hidden @ b_weights[index, :, :rank].float().contiguous().T


def _check(
    x: torch.Tensor,
    y: torch.Tensor,
    a_weights: torch.Tensor,
    b_weights: torch.Tensor,
    ranks: torch.Tensor,
    scales: torch.Tensor,
    adapter: torch.Tensor,
) -> None:
    operator = "grouped_lora"
    weights = a_weights.dtype
    check_dtype(operator, "a_weights", a_weights, torch.float32, torch.bfloat16)
    check_tensor(operator, "x", x, torch.float32, (None, None))
    rows, inputs = x.shape
    check_tensor(operator, "y", y, torch.float32, (rows, None))
    check_tensor(operator, "a_weights", a_weights, weights, (None, None, inputs))
    adapters, most, _ = a_weights.shape
    check_tensor(operator, "b_weights", b_weights, weights, (adapters, y.shape[1], most))
    check_tensor(operator, "ranks", ranks, torch.int64, (adapters,))
    check_tensor(operator, "scales", scales, torch.float32, (adapters,))
    check_tensor(operator, "adapter", adapter, torch.int64, (rows,))
    rule = f"y must be contiguous, since it is changed; its shape is {[*y.shape]}"
    need(y.is_contiguous(), operator, rule)
    outside = ranks[(ranks < 0) | (ranks > most)]
    if len(outside):
        need(False, operator, f"ranks must be from 0 to {most}; one is {int(outside[0])}")
    unknown = adapter[(adapter < NO_ADAPTER) | (adapter >= adapters)]
    if len(unknown):
        rule = f"adapter must hold ids from -1 to {adapters - 1}; one is {int(unknown[0])}"
        need(False, operator, rule)


grouped_lora = define(
    "grouped_lora",
    "(Tensor x, Tensor(a!) y, Tensor a_weights, Tensor b_weights, Tensor ranks, Tensor scales, "
    "Tensor adapter) -> ()",
    grouped_lora_reference,
    lambda x, y, a_weights, b_weights, ranks, scales, adapter: None,
)
"""y[m] += scale (x[m] A^T) B^T, with scale, A and B of row m's adapter. Forward only.

A row's bits are the same whatever else is in the batch, and an adapter's weights are read once.

Args:
    x: float32 [M, K].
    y: float32 [M, N], contiguous; changed in place.
    a_weights: float32 or bfloat16 [L, R, K].
    b_weights: The same type [L, N, R]. Fastest as a view of contiguous [L, R, N] memory
        (`b.transpose(1, 2)`): then neighbours are outputs of one rank.
    ranks: int64 [L], of each adapter, at most R; what lies beyond in its weights is not read.
    scales: float32 [L].
    adapter: int64 [M], which one the row is under; -1: none.
"""
