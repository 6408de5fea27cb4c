"""Attention over rows that lie one behind the other, for every decoder of transformers.

Encoders have the same, without the order: each token sees all of its row.

A micro-batch is one sequence [1, T] of rows without padding; a row sees itself and nothing else.
transformers hands this function the queries, keys and values of all rows, and the rows' starts from
the keyword arguments of the model's call.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from ironcliw.errors import UnsupportedError
from train.model.branches import Branches
from train.model.tree_attention import tree_attention

# what `scaled_dot_product_attention` calls on the processor; heads that share keys are its business
_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

NAME = "ironcliw_packed"
ENCODER_NAME = "ironcliw_packed_encoder"
STARTS = "row_starts"
BRANCHES = "row_branches"
TREE = "row_tree"
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
        given: `row_starts`, list of ints [rows + 1], from 0 to T; or `row_branches`, a `Branches`,
            where rows share beginnings; or `row_tree` of a single row with many short ends: where
            its prompt ends, and then each end, the last at T; an end sees the prompt and itself.

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
    branches: Branches | None = given.get(BRANCHES)
    if branches is not None:
        query, key, value = (t.index_select(2, branches.order) for t in (query, key, value))
        rows = {STARTS: branches.starts}
        output, _ = packed_attention(
            module, query, key, value, None, scaling, dropout, sliding_window, **rows
        )
        return output.index_select(1, branches.own), None
    if (ends := given.get(TREE)) is not None:
        return tree_attention(query, key, value, ends, sliding_window, scaling), None
    starts: list[int] = given[STARTS]
    windowed = sliding_window is not None and longest_row(starts) > sliding_window
    if query.device.type == "cpu" and not windowed and not dropout:
        made: torch.Tensor = _Rows.apply(query, key, value, starts, scaling, True)  # type: ignore[no-untyped-call]
        return made, None
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


def encoder_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each row, of every token to every other.

    Args:
        module: The model's attention module; only there because transformers gives it.
        query: [1, heads, T, D].
        key: As query.
        value: As query.
        attention_mask: Not used: the starts say it all.
        scaling: Of the products; None: 1 / sqrt(D).
        dropout: Of the attention weights.
        given: `row_starts`, list of ints [rows + 1], from 0 to T.

    Returns:
        [1, T, heads, D], and None for the weights.
    """
    starts: list[int] = given[STARTS]
    if query.device.type == "cpu" and not dropout:
        made: torch.Tensor = _Rows.apply(query, key, value, starts, scaling, False)  # type: ignore[no-untyped-call]
        return made, None
    lengths = [end - first for first, end in itertools.pairwise(starts)]
    rows = zip(*(torch.split(each, lengths, 2) for each in (query, key, value)), strict=True)
    parts = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling).transpose(1, 2)
        for q, k, v in rows
    ]
    return torch.cat(parts, 1), None


def longest_row(starts: list[int]) -> int:
    """Tokens of the longest row, from where rows start."""
    return max(end - first for first, end in itertools.pairwise(starts))


class _Rows(torch.autograd.Function):
    """Row by row on the processor, into one output and one gradient.

    Of autograd's own, each slice of a row would have a gradient as long as all rows: filling and
    adding them takes longer than the products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        starts: list[int],
        scaling: float | None,
        causal: bool,
    ) -> torch.Tensor:
        _, heads, length, width = query.shape
        output = query.new_empty(1, length, heads, width)
        sums = query.new_empty(1, heads, length, dtype=torch.float32)
        for first, end in itertools.pairwise(starts):
            rows = (each[:, :, first:end] for each in (query, key, value))
            part, total = _FORWARD(*rows, 0.0, causal, scale=scaling)
            output[:, first:end] = part.transpose(1, 2)
            sums[:, :, first:end] = total
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.starts, ctx.scaling, ctx.causal = starts, scaling, causal
        return output

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None, None]:
        query, key, value, output, sums = ctx.saved_tensors
        # laid out as the projections' outputs are, [1, T, heads, D]
        found = [_like(each) for each in (query, key, value)]
        for first, end in itertools.pairwise(ctx.starts):
            rows = (each[:, :, first:end] for each in (query, key, value))
            parts = _BACKWARD(
                gradient[:, first:end].transpose(1, 2),
                *rows,
                output[:, first:end].transpose(1, 2),
                sums[:, :, first:end],
                0.0,
                ctx.causal,
                scale=ctx.scaling,
            )
            for whole, part in zip(found, parts, strict=True):
                whole[:, :, first:end] = part
        return found[0], found[1], found[2], None, None, None


def _like(given: torch.Tensor) -> torch.Tensor:
    _, heads, length, width = given.shape
    return given.new_empty(1, length, heads, width).transpose(1, 2)


def _band(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which positions a position sees: itself and the `window` - 1 before it."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - (window or length))


def register() -> str:
    """Make the function known to transformers; returns the name to load models with."""
    return _register(NAME, packed_attention)


def register_encoder() -> str:
    """As `register`, of `encoder_attention`."""
    return _register(ENCODER_NAME, encoder_attention)


def _register(name: str, function: Any) -> str:
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(name, function)
    # no mask is built: it would be [1, 1, T, T]
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    return name
