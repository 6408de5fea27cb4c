"""Attention where several rows go on from one beginning, which is computed once.

A branch is a row whose first part may be shared: its positions attend to a prefix that lies
elsewhere in the micro-batch, whole, and causally to themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# what `scaled_dot_product_attention` calls on the processor; heads that share keys are its business
_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Branch(NamedTuple):
    """Positions of a micro-batch; each end is excluded.

    Attributes:
        prefix_start: Where what precedes the branch begins.
        prefix_end: And ends; equal to the start: the branch is a row of its own.
        start: Where its own positions begin.
        end: And end.
    """

    prefix_start: int
    prefix_end: int
    start: int
    end: int

    @property
    def shared(self) -> int:
        """Positions of the prefix."""
        return self.prefix_end - self.prefix_start

    def of(self, given: torch.Tensor) -> torch.Tensor:
        """Prefix and own positions of [1, heads, T, D]."""
        own = given[:, :, self.start : self.end]
        if not self.shared:
            return own
        return torch.cat([given[:, :, self.prefix_start : self.prefix_end], own], 2)


def branched_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    branches: Sequence[Branch],
    scaling: float | None,
) -> torch.Tensor:
    """Attention of each branch to its prefix and, causally, to itself.

    Args:
        query: [1, heads, T, D].
        key: [1, key heads, T, D].
        value: As key.
        branches: They cover all T positions, each once; a prefix comes before its branches.
        scaling: Of the products; None: 1 / sqrt(D).

    Returns:
        [1, T, heads, D].
    """
    if query.device.type == "cpu":
        made: torch.Tensor = _Branches.apply(query, key, value, branches, scaling)  # type: ignore[no-untyped-call]
        return made
    parts = []
    for branch in branches:
        own = branch.end - branch.start
        ones = torch.ones(own, branch.shared + own, dtype=torch.bool, device=query.device)
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, branch.start : branch.end],
                branch.of(key),
                branch.of(value),
                attn_mask=ones.tril(branch.shared) if branch.shared else None,
                is_causal=not branch.shared,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            ).transpose(1, 2)
        )
    return torch.cat(parts, 1)


class _Branches(torch.autograd.Function):
    """Branch by branch on the processor.

    The prefix's queries are computed again with each branch and left out: so it is one causal row,
    for which torch has a kernel, and attention to a prompt is little beside a model's products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        branches: Sequence[Branch],
        scaling: float | None,
    ) -> torch.Tensor:
        _, heads, length, width = query.shape
        output = query.new_empty(1, length, heads, width)
        kept = []
        for branch in branches:
            rows = [branch.of(each) for each in (query, key, value)]
            part, sums = _FORWARD(*rows, 0.0, True, scale=scaling)
            output[:, branch.start : branch.end] = part[:, :, branch.shared :].transpose(1, 2)
            kept += [part, sums]
        ctx.save_for_backward(query, key, value, *kept)
        ctx.branches, ctx.scaling = branches, scaling
        return output

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        # laid out as the projections' outputs are, [1, T, heads, D]
        found = [_like(each) for each in (query, key, value)]
        for number, branch in enumerate(ctx.branches):
            rows = [branch.of(each) for each in (query, key, value)]
            part, sums = kept[2 * number : 2 * number + 2]
            own = gradient[:, branch.start : branch.end].transpose(1, 2)
            before = own.new_zeros(1, own.shape[1], branch.shared, own.shape[3])
            parts = _BACKWARD(
                torch.cat([before, own], 2) if branch.shared else own,
                *rows,
                part,
                sums,
                0.0,
                True,
                scale=ctx.scaling,
            )
            for whole, made in zip(found, parts, strict=True):
                whole[:, :, branch.start : branch.end] = made[:, :, branch.shared :]
                if branch.shared:
                    whole[:, :, branch.prefix_start : branch.prefix_end] += made[
                        :, :, : branch.shared
                    ]
        return found[0], found[1], found[2], None, None


def _like(given: torch.Tensor) -> torch.Tensor:
    _, heads, length, width = given.shape
    return given.new_empty(1, length, heads, width).transpose(1, 2)
