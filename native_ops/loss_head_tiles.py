"""The elementwise half of the loss head: softmax over a vocabulary that comes in tiles, in place.

M rows (supervised tokens), T columns (a tile of the vocabulary that starts at token `first`), H
hidden width. Statistics are float32 for float32 and bfloat16 logits, which are all that the
operators take; the steps that their references are made of take float64 with float64 too.
"""

from __future__ import annotations

import torch

from native_ops.checks import check_contiguous, check_tensor, need
from native_ops.operators import define


def online_softmax_step(
    logits: torch.Tensor,
    targets: torch.Tensor,
    first: int,
    maximum: torch.Tensor,
    total: torch.Tensor,
    target_logit: torch.Tensor,
    gradient: torch.Tensor | None,
) -> None:
    """Milakov and Gimelshein 2018 (arXiv 1805.02867), one tile."""
    hit, column = _target_columns(logits, targets, first)
    values = logits.to(maximum.dtype)
    found = values.gather(1, column).squeeze(1)
    target_logit.copy_(torch.where(hit, found, target_logit))
    largest = torch.maximum(maximum, values.amax(1))
    # a row of nothing but -infinity: exp(-infinity), not exp(NaN)
    shift = largest.masked_fill(largest == -torch.inf, 0)
    factor = torch.exp(maximum - shift)
    logits.copy_(torch.sub(values, shift[:, None]).exp_())
    total.mul_(factor).add_(logits.sum(1, dtype=total.dtype))
    maximum.copy_(largest)
    if gradient is not None:
        gradient.mul_(factor[:, None])


def softmax_gradient_step(
    logits: torch.Tensor,
    targets: torch.Tensor,
    first: int,
    logsumexp: torch.Tensor,
    scale: torch.Tensor,
) -> None:
    """scale * ((is the target) - exp(logit - logsumexp))."""
    hit, column = _target_columns(logits, targets, first)
    probabilities = torch.sub(logits.to(logsumexp.dtype), logsumexp[:, None]).exp_()
    probabilities.scatter_add_(1, column, -hit[:, None].to(probabilities.dtype))
    logits.copy_(probabilities.mul_(-scale[:, None]))


def online_softmax_reference(
    logits: torch.Tensor,
    targets: torch.Tensor,
    first: int,
    maximum: torch.Tensor,
    total: torch.Tensor,
    target_logit: torch.Tensor,
    gradient: torch.Tensor | None,
) -> None:
    """The step, once its arguments are checked."""
    operator, rows = "online_softmax_", logits.shape[:1]
    _check_tile(operator, logits, targets)
    for name, t in (("maximum", maximum), ("total", total), ("target_logit", target_logit)):
        check_tensor(operator, name, t, torch.float32, rows)
        check_contiguous(operator, name, t)
    if gradient is not None:
        check_tensor(operator, "gradient", gradient, torch.float32, (*rows, None))
        check_contiguous(operator, "gradient", gradient)
    online_softmax_step(logits, targets, first, maximum, total, target_logit, gradient)


def softmax_gradient_reference(
    logits: torch.Tensor,
    targets: torch.Tensor,
    first: int,
    logsumexp: torch.Tensor,
    scale: torch.Tensor,
) -> None:
    """The step, once its arguments are checked."""
    operator = "softmax_gradient_"
    _check_tile(operator, logits, targets)
    check_tensor(operator, "logsumexp", logsumexp, torch.float32, logits.shape[:1])
    check_tensor(operator, "scale", scale, torch.float32, logits.shape[:1])
    softmax_gradient_step(logits, targets, first, logsumexp, scale)


online_softmax_ = define(
    "online_softmax_",
    "(Tensor(a!) logits, Tensor targets, int first, Tensor(b!) maximum, Tensor(c!) total, "
    "Tensor(d!) target_logit, Tensor(e!)? gradient) -> ()",
    online_softmax_reference,
    lambda logits, targets, first, maximum, total, target_logit, gradient: None,
)
"""Take a tile in: logits [M, T] become exp(logit - maximum), and the state follows.

The state is maximum, total (the sum of those exponentials) and target_logit, all [M], and gradient
[M, H], which is only kept to the same maximum; it starts at -infinity, 0, 0 and zeros. targets is
int64 [M]; those of another tile, or of none, are left alone.
"""

softmax_gradient_ = define(
    "softmax_gradient_",
    "(Tensor(a!) logits, Tensor targets, int first, Tensor logsumexp, Tensor scale) -> ()",
    softmax_gradient_reference,
    lambda logits, targets, first, logsumexp, scale: None,
)
"""logits [M, T] become the gradient of scale * log p(target) by the logits.

targets int64 [M], logsumexp and scale [M] over the whole vocabulary.
"""


def _check_tile(operator: str, logits: torch.Tensor, targets: torch.Tensor) -> None:
    check_tensor(operator, "logits", logits, (torch.float32, torch.bfloat16), (None, None))
    shape = [*logits.shape]
    need(shape[1] > 0, operator, f"logits must have columns; its shape is {shape}")
    check_contiguous(operator, "logits", logits)
    check_tensor(operator, "targets", targets, torch.int64, logits.shape[:1])


def _target_columns(
    logits: torch.Tensor, targets: torch.Tensor, first: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether a row's target is in the tile [M], and its column there, or 0 [M, 1]."""
    columns = targets - first
    hit = (columns >= 0) & (columns < logits.shape[1])
    return hit, columns.masked_fill(~hit, 0)[:, None]
