"""The rows of a matrix nearest to queries by cosine: for prototypes and semantic caches.

Shapes: Q queries, N rows, D width, k results.
"""

from __future__ import annotations

import torch

from native_ops.operators import define

_MATRIX_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


def cosine_top_k_reference(
    queries: torch.Tensor,
    matrix: torch.Tensor,
    k: int,
    scales: torch.Tensor | None = None,
    norms: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """All cosines in float32, then a stable sort."""
    _check(queries, matrix, k, scales, norms)
    rows = matrix.float()
    if scales is not None:
        rows = rows * scales[:, None]
    lengths = rows.norm(dim=1) if norms is None else norms
    scores = (queries @ rows.T) * _inverse(lengths) * _inverse(queries.norm(dim=1))[:, None]
    # sorting down puts NaN first; a row of NaN must never win
    order = scores.nan_to_num(nan=-torch.inf).sort(dim=1, descending=True, stable=True).indices
    best = order[:, :k]
    return scores.gather(1, best), best.contiguous()


def _inverse(norms: torch.Tensor) -> torch.Tensor:
    return torch.where(norms == 0, 0.0, 1 / norms)


def _check(
    queries: torch.Tensor,
    matrix: torch.Tensor,
    k: int,
    scales: torch.Tensor | None,
    norms: torch.Tensor | None,
) -> None:
    for name, tensor, dim in (
        ("queries", queries, 2),
        ("matrix", matrix, 2),
        ("scales", scales, 1),
        ("norms", norms, 1),
    ):
        if tensor is None:
            continue
        floats = name == "matrix" or tensor.dtype == torch.float32
        _require(floats, f"{name} must be float32; it is {_name(tensor)}")
        shape = list(tensor.shape)
        _require(tensor.dim() == dim, f"{name} must have {dim} dimensions; its shape is {shape}")
    rule = "matrix must be float32, bfloat16, float16 or int8"
    _require(matrix.dtype in _MATRIX_TYPES, f"{rule}; it is {_name(matrix)}")
    rows, width = matrix.shape
    rule = "matrix must have rows (below 2^32) and columns"
    _require(0 < rows < 2**32 and width > 0, f"{rule}; its shape is {[rows, width]}")
    shape = list(queries.shape)
    rule = f"queries must have {width} in dimension 1; its shape is {shape}"
    _require(shape[1] == width, rule)
    _require(1 <= k <= rows, f"k must be from 1 to the matrix's {rows} rows; it is {k}")
    rule = "scales must be given with an int8 matrix, and with no other"
    _require((matrix.dtype == torch.int8) == (scales is not None), rule)
    for name, given in (("scales", scales), ("norms", norms)):
        if given is not None:
            rule = f"{name} must have {rows} in dimension 0; its shape is {list(given.shape)}"
            _require(len(given) == rows, rule)


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise RuntimeError(f"ironcliw::cosine_top_k: {rule}")


cosine_top_k = define(
    "cosine_top_k",
    "(Tensor queries, Tensor matrix, SymInt k, Tensor? scales=None, Tensor? norms=None) "
    "-> (Tensor scores, Tensor indices)",
    cosine_top_k_reference,
    lambda queries, matrix, k, scales=None, norms=None: (
        queries.new_empty((queries.shape[0], k)),
        queries.new_empty((queries.shape[0], k), dtype=torch.int64),
    ),
)
"""The k rows with the largest cosine to each query, which need no norm of 1.

Args:
    queries: float32 [Q, D].
    matrix: float32, bfloat16, float16 or int8 [N, D].
    k: 1 to N.
    scales: float32 [N], which the rows of an int8 matrix are multiplied with.
    norms: float32 [N], of the (multiplied) rows, where they are known; else they are computed.

Returns:
    scores float32 [Q, k], falling, and indices int64 [Q, k], rising among equal scores. A row or
    query of zeros has the cosine 0; a row with NaN comes after all others, its score NaN.
"""
