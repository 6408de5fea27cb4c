"""What the references of the encoder's operators check, in the compiled ones' words.

T tokens, B texts.
"""

from __future__ import annotations

import itertools

import torch


def need(condition: bool, operator: str, rule: str) -> None:
    """Raise RuntimeError naming the operator and the rule where the condition is false."""
    if not condition:
        raise RuntimeError(f"ironcliw::{operator}: {rule}")


def check_seqlens(operator: str, name: str, starts: torch.Tensor, tokens: int) -> None:
    """int32 [B + 1], from 0, rising, to the number of tokens."""
    dtype = str(starts.dtype).removeprefix("torch.")
    need(starts.dtype == torch.int32, operator, f"{name} must be int32; it is {dtype}")
    shape = list(starts.shape)
    need(starts.dim() == 1, operator, f"{name} must have 1 dimensions; its shape is {shape}")
    need(len(starts) > 0, operator, f"{name} must have at least one entry; its shape is {shape}")
    values = starts.tolist()
    need(values[0] == 0, operator, f"{name} must begin with 0; it begins with {values[0]}")
    for index, (left, right) in enumerate(itertools.pairwise(values)):
        need(
            left < right,
            operator,
            f"{name} must rise; entry {index + 1} is {right} after {left}",
        )
    need(
        values[-1] == tokens,
        operator,
        f"{name} must end with the number of tokens, {tokens}; it ends with {values[-1]}",
    )


def check_heads(
    operator: str, heads: int, q: torch.Tensor, cu_queries: torch.Tensor, cu_keys: torch.Tensor
) -> None:
    """Heads that divide the columns of q, and as many texts of keys as of queries."""
    columns = q.shape[1]
    need(
        heads > 0 and columns > 0 and columns % heads == 0,
        operator,
        f"heads must divide the columns of q; it is {heads} of {columns}",
    )
    need(
        len(cu_keys) == len(cu_queries),
        operator,
        f"cu_keys must have {len(cu_queries)} in dimension 0; its shape is {list(cu_keys.shape)}",
    )


def rows_of(starts: torch.Tensor) -> list[slice]:
    """Where each text's rows are."""
    values = starts.tolist()
    return [slice(left, right) for left, right in itertools.pairwise(values)]


def check_forward(
    tokens: torch.Tensor, cu_seqlens: torch.Tensor, words: torch.Tensor, places: torch.Tensor
) -> None:
    """Ids and lengths that the tables have rows for."""
    operator = "encoder_forward"
    check_seqlens(operator, "cu_seqlens", cu_seqlens, len(tokens))
    if len(tokens) == 0:
        return
    low, high = int(tokens.min()), int(tokens.max())
    need(
        low >= 0 and high < len(words),
        operator,
        f"tokens must be 0 to {len(words) - 1}, the rows of words; they are {low} to {high}",
    )
    longest = int(cu_seqlens.diff().max())
    need(
        longest <= len(places),
        operator,
        f"cu_seqlens must give a text no more tokens than places has rows, {len(places)}; "
        f"the longest has {longest}",
    )
