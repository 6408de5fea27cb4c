"""What the references of the encoder's operators check, in the compiled ones' words.

T tokens, B texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from native_ops.checks import check_contiguous, check_size, check_tensor, need

FLOATS = (torch.float32, torch.bfloat16)
WEIGHTS_OF_LAYER, VECTORS_OF_LAYER = 4, 8
INT8_INPUTS = (2**31 - 1) // (128 * 127)
"""Most inputs of an int8 product, whose sums are int32; csrc/kernels/encoder.h derives it."""


def check_seqlens(operator: str, name: str, starts: torch.Tensor, tokens: int) -> None:
    """int32 [B + 1], from 0, rising, to the number of tokens."""
    check_tensor(operator, name, starts, torch.int32, (None,))
    shape = list(starts.shape)
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


def check_inputs(operator: str, name: str, number: str, t: torch.Tensor) -> None:
    """[any, K]: no more inputs of a product than its sums hold."""
    rule = f"{name} must have at most {INT8_INPUTS} columns for int8; its shape is {[*t.shape]}"
    need(number != "int8" or t.shape[1] <= INT8_INPUTS, operator, rule)


def check_linear(x: torch.Tensor, bias: torch.Tensor, number: str) -> None:
    """x [T, K], bias [N]."""
    operator = "encoder_linear"
    check_tensor(operator, "x", x, FLOATS, (None, None))
    check_tensor(operator, "bias", bias, torch.float32, (None,))
    need(x.shape[1] > 0, operator, f"x must have columns; its shape is {list(x.shape)}")
    check_inputs(operator, "x", number, x)


def check_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_queries: torch.Tensor,
    cu_keys: torch.Tensor,
    heads: int,
    causal: bool,
) -> None:
    """All that `packed_attention` is given."""
    operator = "packed_attention"
    check_tensor(operator, "q", q, FLOATS, (None, None))
    columns = q.shape[1]
    rule = f"heads must divide the columns of q; it is {heads} of {columns}"
    need(heads > 0 and columns > 0 and columns % heads == 0, operator, rule)
    check_tensor(operator, "k", k, q.dtype, (None, columns))
    check_tensor(operator, "v", v, q.dtype, (len(k), columns))
    check_seqlens(operator, "cu_queries", cu_queries, len(q))
    check_seqlens(operator, "cu_keys", cu_keys, len(k))
    check_size(operator, "cu_keys", cu_keys, 0, len(cu_queries))
    lengths = (starts.diff().tolist() for starts in (cu_queries, cu_keys))
    for text, (queries, keys) in enumerate(zip(*lengths, strict=True)):
        rule = "cu_keys must give a text as many keys as queries where causal"
        need(
            not causal or queries <= keys, operator, f"{rule}; text {text} has {keys} for {queries}"
        )


def rows_of(starts: torch.Tensor) -> list[slice]:
    """Where each text's rows are."""
    values = starts.tolist()
    return [slice(left, right) for left, right in itertools.pairwise(values)]


def check_forward(
    tokens: torch.Tensor,
    cu_seqlens: torch.Tensor,
    words: torch.Tensor,
    places: torch.Tensor,
    heads: int,
    inner: int,
    number: str,
) -> None:
    """All that `encoder_forward` is given, but for its layers."""
    operator = "encoder_forward"
    check_tensor(operator, "tokens", tokens, torch.int32, (None,))
    check_seqlens(operator, "cu_seqlens", cu_seqlens, len(tokens))
    check_tensor(operator, "words", words, FLOATS, (None, None))
    width = words.shape[1]
    check_tensor(operator, "places", places, torch.float32, (None, width))
    rule = f"heads must divide the width; it is {heads} of {width}"
    need(heads > 0 and width > 0 and width % heads == 0, operator, rule)
    need(inner > 0, operator, f"inner must be positive; it is {inner}")
    check_inputs(operator, "words", number, words)
    rule = f"inner must be at most {INT8_INPUTS} for int8; it is {inner}"
    need(number != "int8" or inner <= INT8_INPUTS, operator, rule)
    outside = ((tokens < 0) | (tokens >= len(words))).nonzero()
    if len(outside):
        at = int(outside[0])
        rule = f"tokens must be 0 to {len(words) - 1}, the rows of words"
        need(False, operator, f"{rule}; token {at} is {int(tokens[at])}")
    for text, length in enumerate(cu_seqlens.diff().tolist()):
        rule = "cu_seqlens must give a text no more tokens than places has rows"
        given = f"{len(places)}; text {text} has {length}"
        need(length <= len(places), operator, f"{rule}, {given}")


def check_layers(
    weights: Sequence[torch.Tensor], vectors: Sequence[torch.Tensor], width: int, inner: int
) -> int:
    """As many weights and vectors as layers need, the vectors of the right sizes.

    Returns:
        The number of layers. Their weights are checked where they are unpacked.
    """
    operator = "encoder_forward"
    rule = f"weights must be 4 for each layer; they are {len(weights)}"
    need(len(weights) % WEIGHTS_OF_LAYER == 0, operator, rule)
    layers = len(weights) // WEIGHTS_OF_LAYER
    rule = f"vectors must be 2 and 8 for each of {layers} layers; they are {len(vectors)}"
    need(len(vectors) == 2 + VECTORS_OF_LAYER * layers, operator, rule)
    sizes = [width] * 2 + [3 * width, width, inner, width, *[width] * 4] * layers
    for index, (vector, size) in enumerate(zip(vectors, sizes, strict=True)):
        name = f"vectors[{index}]"
        check_tensor(operator, name, vector, torch.float32, (size,))
        check_contiguous(operator, name, vector)
    return layers


def check_packed(operator: str, name: str, packed: torch.Tensor, nbytes: int) -> None:
    """The bytes of a packed weight."""
    check_tensor(operator, name, packed, torch.uint8, (nbytes,))
    check_contiguous(operator, name, packed)
