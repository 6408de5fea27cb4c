"""Causal attention over packed rows with rotary positions (Su et al. 2021, arXiv 2104.09864).

Queries and keys are rotated on the way into the products, and their gradients back on the way out,
so that no rotated copy is written. softmax is over products in float32; where the processor
multiplies bfloat16 faster, its weights are rounded to it, as the inputs are.

T tokens in rows one behind the other, H heads of queries, G of keys and values, D wide. The kernels
give the same bits for any number of threads.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from native_ops.checks import check_dim, check_dtype, check_size, check_tensor, need
from native_ops.encoder_checks import check_seqlens
from native_ops.operators import define

FORWARD, BACKWARD = "rotary_attention", "rotary_attention_backward"
Maybe = torch.Tensor | None
_DTYPES = (torch.float32, torch.bfloat16)


def forward_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: Maybe,
    sin: Maybe,
    cu_seqlens: torch.Tensor,
    width: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [T, H D] and the logarithms of softmax's denominators [H, T]."""
    heads, exact = q.shape[1] // width, _exact(q)
    q_heads, k_heads, v_heads = (_heads(t, width, exact) for t in (q, k, v))
    q_heads, k_heads = _rotated(q_heads, cos, sin), _rotated(k_heads, cos, sin)
    out = q.new_empty(len(q), heads, width)
    sums = q.new_empty(heads, len(q), dtype=exact)
    group = heads // k_heads.shape[0]
    for first, end in itertools.pairwise(cu_seqlens.tolist()):
        rows = slice(first, end)
        logits = _logits(q_heads[:, rows], k_heads[:, rows].repeat_interleave(group, 0), scale)
        sums[:, rows] = torch.logsumexp(logits, 2)
        weights = torch.exp(logits - sums[:, rows, None])
        found = weights @ v_heads[:, rows].repeat_interleave(group, 0)
        out[rows] = found.transpose(0, 1).to(out.dtype)
    return out.view(q.shape), sums


def _added(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """The sums over the heads [H, T, D] of each group, [groups, T, D]."""
    return heads.reshape(groups, -1, *heads.shape[1:]).sum(1)


def backward_step(
    gradient: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: Maybe,
    sin: Maybe,
    cu_seqlens: torch.Tensor,
    sums: torch.Tensor,
    width: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q [T, H D], k and v [T, G D]."""
    exact = _exact(q)
    g_heads, q_heads, k_heads, v_heads = (_heads(t, width, exact) for t in (gradient, q, k, v))
    q_heads, k_heads = _rotated(q_heads, cos, sin), _rotated(k_heads, cos, sin)
    of_q, of_k, of_v = (torch.zeros_like(t) for t in (q_heads, k_heads, v_heads))
    groups, group = k_heads.shape[0], q_heads.shape[0] // k_heads.shape[0]
    for first, end in itertools.pairwise(cu_seqlens.tolist()):
        rows = slice(first, end)
        keys, values = (t[:, rows].repeat_interleave(group, 0) for t in (k_heads, v_heads))
        queries, grads = q_heads[:, rows], g_heads[:, rows]
        weights = torch.exp(_logits(queries, keys, scale) - sums[:, rows, None])
        inner = grads @ values.mT
        inner = weights * (inner - (weights * inner).sum(2, keepdim=True)) * scale
        of_q[:, rows] = inner @ keys
        # heads of queries that share one of keys, added up
        of_k[:, rows] = _added(inner.mT @ queries, groups)
        of_v[:, rows] = _added(weights.mT @ grads, groups)
    # the transposed of the rotation: by -sin, its halves exchanged
    back = None if sin is None else -sin.roll(width // 2, 1)
    parts = (_rotated(of_q, cos, back), _rotated(of_k, cos, back), of_v)
    found = [
        p.transpose(0, 1).reshape(t.shape).to(t.dtype)
        for p, t in zip(parts, (q, k, v), strict=True)
    ]
    return found[0], found[1], found[2]


def forward_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: Maybe,
    sin: Maybe,
    cu_seqlens: torch.Tensor,
    width: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The step, once its arguments are checked."""
    _check(FORWARD, q, k, v, cos, sin, cu_seqlens, width, scale)
    return forward_step(q, k, v, cos, sin, cu_seqlens, width, scale)


def backward_reference(
    gradient: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: Maybe,
    sin: Maybe,
    cu_seqlens: torch.Tensor,
    sums: torch.Tensor,
    width: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The step, once its arguments are checked."""
    _check(BACKWARD, q, k, v, cos, sin, cu_seqlens, width, scale)
    check_tensor(BACKWARD, "gradient", gradient, q.dtype, q.shape)
    check_tensor(BACKWARD, "sums", sums, torch.float32, (q.shape[1] // width, len(q)))
    return backward_step(gradient, q, k, v, cos, sin, cu_seqlens, sums, width, scale)


_forward = define(
    FORWARD,
    "(Tensor q, Tensor k, Tensor v, Tensor? cos, Tensor? sin, Tensor cu_seqlens, int width, "
    "float scale) -> (Tensor out, Tensor sums)",
    forward_reference,
    lambda q, k, v, cos, sin, cu_seqlens, width, scale: (
        q.new_empty(q.shape),
        q.new_empty((q.shape[1] // width, q.shape[0]), dtype=torch.float32),
    ),
)
"""float32 or bfloat16 q [T, H D], k, v [T, G D], cos, sin [T, D]; cu_seqlens int32 [B + 1]."""

_backward = define(
    BACKWARD,
    "(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor? cos, Tensor? sin, Tensor cu_seqlens, "
    "Tensor sums, int width, float scale) -> (Tensor q, Tensor k, Tensor v)",
    backward_reference,
    lambda gradient, q, k, v, cos, sin, cu_seqlens, sums, width, scale: (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
    ),
)
"""gradient [T, H D] of the output; sums float32 [H, T] of the forward pass."""


def rotary_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    cu_seqlens: torch.Tensor,
    width: int,
    scale: float,
) -> torch.Tensor:
    """Causal attention within each row; differentiable once, by q, k and v.

    Args:
        q: [T, H D], float32 or bfloat16; float64 is for checks, in plain torch.
        k: [T, G D]; G divides H.
        v: As k.
        cos: [T, D] of each token's position, for halves turned together; None: no rotation.
        sin: As cos.
        cu_seqlens: int32 [B + 1], where rows start, from 0 to T.
        width: D.
        scale: Of the products, above 0.

    Returns:
        [T, H D].

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
    """
    made: torch.Tensor = _Attention.apply(q, k, v, cos, sin, cu_seqlens, width, scale)  # type: ignore[no-untyped-call]
    return made


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> Any:
        run = forward_step if q.dtype == torch.float64 else _forward
        out, sums = run(q, k, v, *rest)
        cos, sin, cu_seqlens, ctx.width, ctx.scale = rest
        ctx.save_for_backward(q, k, v, cos, sin, cu_seqlens, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, *rest = ctx.saved_tensors
        run: Any = backward_step if q.dtype == torch.float64 else _backward
        return *run(gradient, q, *rest, ctx.width, ctx.scale), None, None, None, None, None


def _check(
    operator: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: Maybe,
    sin: Maybe,
    cu_seqlens: torch.Tensor,
    width: int,
    scale: float,
) -> None:
    check_tensor(operator, "q", q, _DTYPES, (None, None))
    tokens, columns = q.shape
    rule = f"width must divide the columns of q; it is {width} of {columns}"
    need(width > 0 and columns > 0 and columns % width == 0, operator, rule)
    check_dtype(operator, "k", k, q.dtype)
    check_dim(operator, "k", k, 2)
    check_size(operator, "k", k, 0, tokens)
    keys = k.shape[1]
    rule = f"k must have columns that divide those of q, {columns}, in heads of {width}"
    fits = keys > 0 and keys % width == 0 and columns % keys == 0
    need(fits, operator, f"{rule}; its shape is {[*k.shape]}")
    check_tensor(operator, "v", v, q.dtype, (tokens, keys))
    need((cos is None) == (sin is None), operator, "cos and sin must be given together")
    if cos is not None and sin is not None:
        rule = f"width must be even where there is a rotation; it is {width}"
        need(width % 2 == 0, operator, rule)
        check_tensor(operator, "cos", cos, q.dtype, (tokens, width))
        check_tensor(operator, "sin", sin, q.dtype, (tokens, width))
    check_seqlens(operator, "cu_seqlens", cu_seqlens, tokens)
    need(scale > 0, operator, f"scale must be above 0; it is {scale:g}")


def _heads(t: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """[heads, T, D]."""
    return t.view(len(t), -1, width).transpose(0, 1).to(dtype)


def _rotated(t: torch.Tensor, cos: Maybe, sin: Maybe) -> torch.Tensor:
    if cos is None or sin is None:
        return t
    first, second = t.chunk(2, 2)
    return t * cos.to(t.dtype) + torch.cat((-second, first), 2) * sin.to(t.dtype)


def _logits(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """Scaled products, -infinity where a key comes after the query."""
    later = torch.ones(queries.shape[1], keys.shape[1], dtype=torch.bool, device=keys.device)
    return (queries @ keys.mT * scale).masked_fill(later.triu(1), -torch.inf)


def _exact(t: torch.Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32
