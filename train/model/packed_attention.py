"""Attention over rows that lie one behind the other, for every decoder of transformers.

A micro-batch is one sequence [1, T] of rows without padding; a row sees itself and nothing else.
transformers hands this function the queries, keys and values of all rows, and the rows' starts from
the keyword arguments of the model's call.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from ironcliw.errors import UnsupportedError

NAME = "ironcliw_packed"
STARTS = "row_starts"
_UNKNOWN = {"softcap": "soft-caps its attention", "s_aux": "has attention sinks"}
"""Keywords of architectures that do more than weigh; to leave it out would change the model."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row.

    Args:
        module: The model's attention module; only there because transformers gives it.
        query: [1, heads, T, D].
        key: [1, key heads, T, D].
        value: As key.
        attention_mask: Not used: the starts say it all.
        scaling: Of the products; None: 1 / sqrt(D).
        dropout: Of the attention weights.
        sliding_window: Positions that a position sees; None: all before it.
        given: `row_starts`, list of ints [rows + 1], from 0 to T.

    Returns:
        [1, T, heads, D], and None for the weights.

    Raises:
        UnsupportedError: the model's attention does more than this one.
    """
    for name, words in _UNKNOWN.items():
        if given.get(name) is not None:
            raise UnsupportedError(
                f"the model {words}, which attention over packed rows does not; train another "
                "architecture, such as Llama, Mistral or Qwen"
            )
    starts: list[int] = given[STARTS]
    grouped = query.shape[1] != key.shape[1]
    parts = []
    for first, end in itertools.pairwise(starts):
        windowed = sliding_window is not None and end - first > sliding_window
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, first:end],
                key[:, :, first:end],
                value[:, :, first:end],
                attn_mask=_band(end - first, sliding_window, query.device) if windowed else None,
                dropout_p=dropout,
                is_causal=not windowed,
                scale=scaling,
                enable_gqa=grouped,
            ).transpose(1, 2)
        )
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)), None


def _band(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which positions a position sees: itself and the `window` - 1 before it."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - (window or length))


def register() -> str:
    """Make the function known to transformers; returns the name to load models with."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    # no mask is built: it would be [1, 1, T, T]
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    return NAME
