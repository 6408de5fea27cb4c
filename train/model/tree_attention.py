"""Attention of many short ends to one prompt, in one masked product: to compare labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: Sequence[int],
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attention within a prompt, and of each end to the prompt and itself.

    Args:
        query: [1, heads, T, D].
        key: [1, key heads, T, D].
        value: As key.
        ends: Where the prompt ends, and then each end, the last at T.
        window: Positions that a position sees; None: all before it.
        scaling: Of the products; None: 1 / sqrt(D).

    Returns:
        [1, T, heads, D].
    """
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=_mask(ends, window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2)


def _mask(ends: Sequence[int], window: int | None, device: torch.device) -> torch.Tensor:
    """Which positions a position sees, [T, T]: before it, in the prompt or in its own branch."""
    first, length = ends[0], ends[-1]
    borders = torch.tensor(ends[:-1])
    places = torch.arange(length)
    branch = torch.bucketize(places, borders, right=True)  # 0 is the prompt
    starts = torch.tensor([0, *ends[:-1]])[branch]
    # a branch goes on where the prompt ends
    at = torch.where(branch == 0, places, first + places - starts)
    seen = (branch[None] == 0) | (branch[:, None] == branch[None])
    seen &= places[None] <= places[:, None]
    if window is not None:
        seen &= at[:, None] - at[None] < window
    return seen.to(device)
