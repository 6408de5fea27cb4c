"""The rows of a matrix nearest to queries by cosine: for prototypes and semantic caches.

Shapes: Q queries, N rows, D width, k results.
"""

from __future__ import annotations

import torch

from native_ops.checks import check_dim, check_dtype, check_size, check_tensor, need
from native_ops.operators import define

_NAME = "cosine_top_k"
_NORMS = (1e-15, 1e19)
"""Squares of smaller rows near float32's subnormals, those of larger ones become infinite."""
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
    asked, _ = _evened(queries)
    rows, multiplier = _evened(matrix.float())
    multiplier = multiplier if scales is None else scales
    # without norms no more than the sign is needed of what multiplies a row
    lengths = multiplier.abs() if norms is None else norms
    factors = _ratio(multiplier, lengths)
    if norms is None:
        factors = _ratio(factors, rows.norm(dim=1))
    scores = (asked @ rows.T) * factors * _ratio(torch.ones(()), asked.norm(dim=1))[:, None]
    # sorting down puts NaN first; a row of NaN must never win
    order = scores.nan_to_num(nan=-torch.inf).sort(dim=1, descending=True, stable=True).indices
    best = order[:, :k]
    return scores.gather(1, best), best.contiguous()


def _evened(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows divided by their largest magnitude where float32 does not hold their squares.

    Returns:
        The rows [N, D], and what they were divided by [N], 1 for all others.
    """
    norms = rows.norm(dim=1)
    divisors = torch.ones_like(norms)
    extreme = (norms < _NORMS[0]) | (norms > _NORMS[1])
    if extreme.any():
        largest = rows.abs().amax(1)
        divisors = torch.where(extreme & (largest > 0), largest, divisors)
        rows = rows / divisors[:, None]
    return rows, divisors


def _ratio(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    return torch.where(below == 0, 0.0, above / below)


def _check(
    queries: torch.Tensor,
    matrix: torch.Tensor,
    k: int,
    scales: torch.Tensor | None,
    norms: torch.Tensor | None,
) -> None:
    check_tensor(_NAME, "queries", queries, torch.float32, (None, None))
    check_dim(_NAME, "matrix", matrix, 2)
    check_dtype(_NAME, "matrix", matrix, *_MATRIX_TYPES)
    rows, width = matrix.shape
    rule = f"matrix must have rows (below 2^32) and columns; its shape is {[rows, width]}"
    need(0 < rows < 2**32 and width > 0, _NAME, rule)
    check_size(_NAME, "queries", queries, 1, width)
    need(1 <= k <= rows, _NAME, f"k must be from 1 to the matrix's {rows} rows; it is {k}")
    rule = "scales must be given with an int8 matrix, and with no other"
    need((matrix.dtype == torch.int8) == (scales is not None), _NAME, rule)
    for name, given in (("scales", scales), ("norms", norms)):
        if given is not None:
            check_tensor(_NAME, name, given, torch.float32, (rows,))
    if norms is not None and bool((norms < 0).any()):
        row = int((norms < 0).int().argmax())
        rule = f"norms must not be negative; row {row} has {float(norms[row]):g}"
        need(False, _NAME, rule)


cosine_top_k = define(
    _NAME,
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
        That they are the rows' is trusted; only negative ones are refused.

Returns:
    scores float32 [Q, k], falling, and indices int64 [Q, k], rising among equal scores. A row or
    query of zeros has the cosine 0; a row with NaN or infinity, or whose norm is given as NaN,
    comes after all others, its score NaN.
"""
