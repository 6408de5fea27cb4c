"""The language model's loss without its logits: log-probabilities of target tokens, and gradients.

The logits of all positions, [N, V], are the largest tensor of training. Here only supervised
positions are computed, in tiles of the vocabulary that stay in the processor's cache. The gradient
for the hidden states comes with the forward pass: d log p(t) / d h = W[t] - softmax(h W^T) W has
the form of attention, so a tile is multiplied by its part of W at once (as FlashAttention does,
arXiv 2205.14135). It is kept for each token and weighted in the backward pass, so that a loss which
knows its weights only afterwards (DPO) costs no second pass. A gradient for a trainable W does: its
tiles are computed again in the backward pass.

N positions, M of them supervised, V tokens in the vocabulary, H hidden width. Matrix products are
in the dtype of the inputs; softmax, sums and losses in float32 (float64 for float64 inputs).
The kernels give the same bits for any number of threads; the matrix products of MKL and oneDNN do
not for every shape, so results are exactly repeatable for one number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from native_ops.checks import check_tensor, need
from native_ops.loss_head_tiles import (
    online_softmax_,
    online_softmax_step,
    softmax_gradient_,
    softmax_gradient_step,
)
from native_ops.operators import define

IGNORED = -100
"""Target of a position that is not supervised, as in `torch.nn.functional.cross_entropy`."""
TILE = 2048
"""Tokens of the vocabulary in one tile."""
ROWS = 512
"""Positions in one tile: with TILE, 4 MiB in float32."""
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
_LOGPROBS, _WEIGHT_GRADIENT = "token_logprobs", "token_logprobs_weight_gradient"


def loss_head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    token_weights: torch.Tensor | None = None,
    reduction: str = "mean",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of next tokens, in a fraction of the time and memory of the logits.

    Args:
        hidden: [N, H].
        weight: [V, H], the output embedding, trainable or frozen.
        targets: int64 [N], -100 where a position is not supervised.
        token_weights: [N], of each position's loss; None for 1.
        reduction: "sum", or "mean": divided by the sum of the supervised positions' weights.

    Returns:
        The loss, NaN for a mean over nothing, and the log-probabilities [N] of the targets, 0 where
        a position is not supervised.

    Raises:
        ValueError: an unknown reduction.
        RuntimeError: shapes or dtypes that do not fit, a target outside [0, V) other than -100.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; choose 'mean' or 'sum'")
    logprobs = token_logprobs(hidden, weight, targets)
    supervised = (targets != IGNORED).to(logprobs.dtype)
    weights = supervised if token_weights is None else supervised * token_weights
    loss = -(logprobs * weights).sum()
    return (loss / weights.sum() if reduction == "mean" else loss), logprobs


def token_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """log p(target) of each position, 0 where it is not supervised.

    Sum them over a sequence for DPO. Differentiable once, by hidden and weight; under
    `torch.no_grad` the gradients' half of the work is left out.

    Args:
        hidden: [N, H].
        weight: [V, H].
        targets: int64 [N], -100 where a position is not supervised.

    Returns:
        float32 (float64 for float64 inputs) [N].

    Raises:
        RuntimeError: shapes or dtypes that do not fit, a target outside [0, V) other than -100.
    """
    with_gradient = torch.is_grad_enabled() and hidden.requires_grad
    logprobs: torch.Tensor = _forward(hidden, weight, targets, with_gradient)[0]
    return logprobs


def token_logprobs_reference(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logprobs and logsumexp [N], d logprobs / d hidden [N, H] or [0, H], in one pass."""
    positions = _check(hidden, weight, targets, _LOGPROBS)
    exact = _statistics_dtype(hidden)
    logprobs = hidden.new_zeros(targets.shape, dtype=exact)
    logsumexp = torch.zeros_like(logprobs)
    gradient = hidden.new_zeros(hidden.shape if with_gradient else (0, hidden.shape[1]))
    for chosen in _pieces(positions):
        x, wanted = hidden[chosen], targets[chosen]
        maximum, total, target_logit, sums = _scan(x, weight, wanted, exact, with_gradient)
        logsumexp[chosen] = maximum + total.log()
        # not by logsumexp, in which a large maximum swallows the logarithm
        logprobs[chosen] = target_logit - maximum - total.log()
        if sums is not None:
            gradient[chosen] = (weight[wanted] - sums.div_(total[:, None])).to(gradient.dtype)
    return logprobs, logsumexp, gradient


def weight_gradient_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    logsumexp: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """Sum over positions of scale * d logprobs / d weight, [V, H]; tiles are computed again."""
    positions = _check(hidden, weight, targets, _WEIGHT_GRADIENT)
    for name, t in (("logsumexp", logsumexp), ("scale", scale)):
        check_tensor(_WEIGHT_GRADIENT, name, t, _statistics_dtype(hidden), targets.shape)
    gradient = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    step = _kernel(hidden, softmax_gradient_, softmax_gradient_step)
    parts = [
        (hidden[chosen], targets[chosen], logsumexp[chosen], scale[chosen])
        for chosen in _pieces(positions)
    ]
    for first in range(0, len(weight), TILE):
        columns = weight[first : first + TILE]
        total = torch.zeros_like(columns, dtype=logsumexp.dtype)
        for x, wanted, sums, scales in parts:
            tile = torch.mm(x, columns.t())
            step(tile, wanted, first, sums, scales)
            _add_product(total, tile.t(), x)
        gradient[first : first + TILE] = total.to(gradient.dtype)
    return gradient


_forward = define(
    _LOGPROBS,
    "(Tensor hidden, Tensor weight, Tensor targets, bool with_gradient) -> "
    "(Tensor logprobs, Tensor logsumexp, Tensor gradient)",
    token_logprobs_reference,
    lambda hidden, weight, targets, with_gradient: (
        hidden.new_empty(targets.shape, dtype=_statistics_dtype(hidden)),
        hidden.new_empty(targets.shape, dtype=_statistics_dtype(hidden)),
        hidden.new_empty(hidden.shape if with_gradient else (0, hidden.shape[1])),
    ),
)

_weight_gradient = define(
    _WEIGHT_GRADIENT,
    "(Tensor hidden, Tensor weight, Tensor targets, Tensor logsumexp, Tensor scale) -> Tensor",
    weight_gradient_reference,
    lambda hidden, weight, targets, logsumexp, scale: torch.empty_like(
        weight, memory_format=torch.contiguous_format
    ),
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, targets, _ = inputs
    _, logsumexp, gradient = output
    ctx.mark_non_differentiable(logsumexp, gradient)
    ctx.set_materialize_grads(False)
    again = (hidden, weight, targets) if ctx.needs_input_grad[1] else (None, None, None)
    ctx.save_for_backward(gradient, logsumexp, *again)


@once_differentiable
def _backward(
    ctx: Any, scale: torch.Tensor | None, *_: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
    gradient, logsumexp, hidden, weight, targets = ctx.saved_tensors
    if scale is None:
        return None, None, None, None
    for_hidden = for_weight = None
    if ctx.needs_input_grad[0]:
        for_hidden = gradient * scale[:, None].to(gradient.dtype)
    if ctx.needs_input_grad[1]:
        for_weight = _weight_gradient(hidden, weight, targets, logsumexp, scale)
    return for_hidden, for_weight, None, None


torch.library.register_autograd(f"ironcliw::{_LOGPROBS}", _backward, setup_context=_save)


def _scan(
    x: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    exact: torch.dtype,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """x [M, H] against all tiles: maximum, total, target logit [M], sum of exp * weight [M, H]."""
    step = _kernel(x, online_softmax_, online_softmax_step)
    maximum = x.new_full((len(x),), -torch.inf, dtype=exact)
    total, target_logit = torch.zeros_like(maximum), torch.zeros_like(maximum)
    sums = x.new_zeros(x.shape, dtype=exact) if with_gradient else None
    for first in range(0, len(weight), TILE):
        columns = weight[first : first + TILE]
        tile = torch.mm(x, columns.t())
        step(tile, targets, first, maximum, total, target_logit, sums)
        if sums is not None:
            _add_product(sums, tile, columns)
    return maximum, total, target_logit, sums


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a b, where total may be of a higher precision."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(torch.mm(a, b))


def _pieces(positions: torch.Tensor) -> list[torch.Tensor]:
    return [positions[first : first + ROWS] for first in range(0, len(positions), ROWS)]


def _kernel(x: torch.Tensor, operator: Callable[..., Any], reference: Callable[..., Any]) -> Any:
    """The compiled kernels know no float64, which is for checking gradients.

    They are kept for float32, too, where MKL's products are 95 % of the time: forward and backward
    of 512 positions of SmolLM2's head, 40 % supervised, 15 times in turn with the reference in one
    process of a busy machine, took 1.49 times less (median of the pairs; 1.23 by the medians;
    bfloat16: 1.74 and 1.81). Separate processes
    gave 1.12 and 1.34 in float32.
    """
    return reference if x.dtype == torch.float64 else operator


def _statistics_dtype(hidden: torch.Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _check(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, operator: str
) -> torch.Tensor:
    """Indices of the supervised positions [M], once all arguments are as they must be."""
    check_tensor(operator, "hidden", hidden, DTYPES, (None, None))
    check_tensor(operator, "weight", weight, hidden.dtype, (None, hidden.shape[1]))
    rule = f"weight must have a row at least; its shape is {[*weight.shape]}"
    need(len(weight) > 0, operator, rule)
    check_tensor(operator, "targets", targets, torch.int64, hidden.shape[:1])
    positions = (targets != IGNORED).nonzero().squeeze(1)
    used = targets[positions]
    outside = used[(used < 0) | (used >= len(weight))]
    if len(outside):
        rule = f"targets must be {IGNORED} or in [0, {len(weight)})"
        given = f"{len(outside)} are not, the first is {int(outside[0])}"
        need(False, operator, f"{rule}; {given}")
    return positions
