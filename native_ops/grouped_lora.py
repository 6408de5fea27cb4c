"""Low-rank updates of the rows of one batch under different adapters.

Shapes: M rows, K inputs, N outputs, L adapters, R ranks of the largest adapter.
"""

from __future__ import annotations

import torch

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
        y[rows] += hidden @ b_weights[index, :, :rank].float().T


def _check(
    x: torch.Tensor,
    y: torch.Tensor,
    a_weights: torch.Tensor,
    b_weights: torch.Tensor,
    ranks: torch.Tensor,
    scales: torch.Tensor,
    adapter: torch.Tensor,
) -> None:
    weights = a_weights.dtype
    allowed = weights in (torch.float32, torch.bfloat16)
    _require(allowed, f"a_weights must be float32 or bfloat16; it is {_name(weights)}")
    rows, inputs, outputs = x.shape[0], x.shape[-1], y.shape[-1]
    adapters, most = a_weights.shape[0], a_weights.shape[1]
    for name, tensor, dtype, shape in (
        ("x", x, torch.float32, (rows, inputs)),
        ("y", y, torch.float32, (rows, outputs)),
        ("a_weights", a_weights, weights, (adapters, most, inputs)),
        ("b_weights", b_weights, weights, (adapters, outputs, most)),
        ("ranks", ranks, torch.int64, (adapters,)),
        ("scales", scales, torch.float32, (adapters,)),
        ("adapter", adapter, torch.int64, (rows,)),
    ):
        _require(
            tensor.dtype == dtype, f"{name} must be {_name(dtype)}; it is {_name(tensor.dtype)}"
        )
        given = list(tensor.shape)
        rule = f"{name} must have {len(shape)} dimensions; its shape is {given}"
        _require(tensor.dim() == len(shape), rule)
        for dim, (size, wanted) in enumerate(zip(given, shape, strict=True)):
            rule = f"{name} must have {wanted} in dimension {dim}; its shape is {given}"
            _require(size == wanted, rule)
    _require(
        y.is_contiguous(),
        f"y must be contiguous, since it is changed; its shape is {list(y.shape)}",
    )
    inside = bool(((ranks >= 0) & (ranks <= most)).all())
    _require(inside, f"ranks must be from 0 to {most}; they are {ranks.tolist()}")
    known = bool(((adapter >= NO_ADAPTER) & (adapter < adapters)).all())
    _require(known, f"adapter must hold ids from -1 to {adapters - 1}; it is {adapter.tolist()}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise RuntimeError(f"ironcliw::grouped_lora: {rule}")


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
