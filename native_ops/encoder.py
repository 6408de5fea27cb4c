"""Encoders of the BERT family over texts that stand end to end, without padding.

`cu_seqlens`, int32 [B + 1], says where texts begin: text i has the tokens cu_seqlens[i] to
cu_seqlens[i + 1]. T tokens, B texts, D width, H heads, N outputs and K inputs of a linear layer,
V words, P positions. Numbers are `float32`, `bfloat16` or `int8`: what weights are kept as.
Activations are `none`, `relu`, `gelu` or `gelu_tanh`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from native_ops.checks import check_tensor, need
from native_ops.encoder_adapters import AdaptersOfTexts, EncoderSizes
from native_ops.encoder_checks import (
    FLOATS,
    VECTORS_OF_LAYER,
    WEIGHTS_OF_LAYER,
    check_attention,
    check_forward,
    check_layers,
    check_linear,
    check_packed,
    check_seqlens,
    rows_of,
)
from native_ops.encoder_layout import check_number, pack, packed_bytes, qkv_number, unpack
from native_ops.operators import define

POOLINGS = ("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")


def activated(x: torch.Tensor, activation: str, operator: str = "encoder_linear") -> torch.Tensor:
    """x through an activation by its name; an unknown one is the operator's error."""
    known = activation in ("none", "relu", "gelu", "gelu_tanh")
    rule = f"activation must be none, relu, gelu or gelu_tanh; it is {activation}"
    need(known, operator, rule)
    if activation == "relu":
        return torch.relu(x)
    if activation in {"gelu", "gelu_tanh"}:
        return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")
    return x


def encoder_linear_reference(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor,
    activation: str,
    number: str,
) -> torch.Tensor:
    """activation(x w^T + bias): sums in float32, rounded once at the end."""
    check_linear(x, bias, number)
    weight = unpack(packed, number, len(bias), x.shape[1])
    rows = x.float()
    if number == "int8":  # as of a row that is made int8: an infinity leaves nothing of it
        rows = rows.where(rows.isfinite().all(1, keepdim=True), torch.nan)
    return activated(F.linear(rows, weight, bias), activation).to(x.dtype)


def packed_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_queries: torch.Tensor,
    cu_keys: torch.Tensor,
    heads: int,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """Text by text in float32."""
    check_attention(q, k, v, cu_queries, cu_keys, heads, causal)
    result = q.new_empty(q.shape)
    for queries, keys in zip(rows_of(cu_queries), rows_of(cu_keys), strict=True):
        parts = (q[queries], k[keys], v[keys])
        heads_q, heads_k, heads_v = (
            part.float().reshape(len(part), heads, -1).transpose(0, 1) for part in parts
        )
        scores = heads_q @ heads_k.transpose(1, 2) * scale
        rows, columns = scores.shape[1:]
        if causal:
            later = torch.ones(rows, columns, dtype=torch.bool, device=q.device)
            scores = scores.masked_fill(later.triu(columns - rows + 1), -torch.inf)
        context = scores.softmax(2) @ heads_v
        result[queries] = context.transpose(0, 1).flatten(1).to(q.dtype)
    return result


def pool_texts_reference(
    hidden: torch.Tensor, cu_seqlens: torch.Tensor, mode: str, normalize: bool
) -> torch.Tensor:
    """Text by text in float32."""
    known = f"{', '.join(POOLINGS[:-1])} or {POOLINGS[-1]}"
    need(mode in POOLINGS, "pool_texts", f"mode must be {known}; it is {mode}")
    check_tensor("pool_texts", "hidden", hidden, FLOATS, (None, None))
    check_seqlens("pool_texts", "cu_seqlens", cu_seqlens, len(hidden))
    pooled = [_pool(hidden[rows].float(), mode) for rows in rows_of(cu_seqlens)]
    result = torch.stack(pooled) if pooled else hidden.new_empty(0, hidden.shape[1]).float()
    return _normalized(result) if normalize else result


def _normalized(rows: torch.Tensor) -> torch.Tensor:
    huge = rows.norm(dim=1).isinf()  # more than float32 holds, though no number of the row may be
    if huge.any():
        largest = rows[huge].abs().amax(1, keepdim=True)
        rows[huge] = torch.where(largest.isinf(), rows[huge], rows[huge] / largest)
    return F.normalize(rows, dim=1)


def _pool(rows: torch.Tensor, mode: str) -> torch.Tensor:
    if mode == "cls":
        return rows[0]
    if mode == "lasttoken":
        return rows[-1]
    if mode == "max":
        return rows.amax(0)
    if mode == "weightedmean":
        weights = torch.arange(1, len(rows) + 1, device=rows.device, dtype=rows.dtype)
        return weights @ rows / weights.sum()
    total = rows.sum(0)
    return total / (len(rows) if mode == "mean" else len(rows) ** 0.5)


def encoder_forward_reference(
    tokens: torch.Tensor,
    cu_seqlens: torch.Tensor,
    words: torch.Tensor,
    places: torch.Tensor,
    weights: Sequence[torch.Tensor],
    vectors: Sequence[torch.Tensor],
    heads: int,
    inner: int,
    epsilon: float,
    activation: str,
    number: str,
    adapters: Sequence[torch.Tensor],
    adapter_ranks: Sequence[torch.Tensor],
    text_adapters: torch.Tensor,
) -> torch.Tensor:
    """The layers in float32, with weights as they are rounded."""
    operator = "encoder_forward"
    check_number(operator, number)
    check_forward(tokens, cu_seqlens, words, places, heads, inner, number)
    width = words.shape[1]
    activated(words[:0], activation, operator)
    shapes = ((3 * width, width), (width, width), (inner, width), (width, inner))
    layers = check_layers(weights, vectors, width, inner)
    numbers = (qkv_number(number), number, number, number)
    for at, packed in enumerate(weights):
        kind, size = numbers[at % WEIGHTS_OF_LAYER], shapes[at % WEIGHTS_OF_LAYER]
        check_packed(operator, f"weights[{at}]", packed, packed_bytes(kind, *size))
    sizes = EncoderSizes(layers, width, inner, number)
    texts = rows_of(cu_seqlens)
    changes = AdaptersOfTexts(sizes, adapters, adapter_ranks, text_adapters, len(texts))
    starts = cu_seqlens.long()
    lengths = starts.diff()
    positions = torch.arange(len(tokens), device=tokens.device)
    positions = positions - torch.repeat_interleave(starts[:-1], lengths)
    x = words[tokens.long()].float() + places[positions]
    x = F.layer_norm(x, (width,), vectors[0], vectors[1], epsilon)
    for index in range(layers):
        packed_here = weights[WEIGHTS_OF_LAYER * index :][:WEIGHTS_OF_LAYER]
        w = [unpack(p, n, *size) for p, n, size in zip(packed_here, numbers, shapes, strict=True)]
        b = vectors[2 + VECTORS_OF_LAYER * index :]

        def product(x: torch.Tensor, at: int, *parts: str) -> torch.Tensor:
            y = F.linear(x, w[at], b[at])  # noqa: B023  # called before the next layer
            for part, outputs in zip(parts, y.chunk(len(parts), 1), strict=True):
                changes.add(index, part, x, outputs, texts)  # noqa: B023
            return y

        q, k, v = product(x, 0, "query", "key", "value").chunk(3, 1)
        scale = (width // heads) ** -0.5
        context = packed_attention_reference(q, k, v, cu_seqlens, cu_seqlens, heads, scale, False)
        x = F.layer_norm(x + product(context, 1, "attention_out"), (width,), b[4], b[5], epsilon)
        up = activated(product(x, 2, "up"), activation, operator)
        x = F.layer_norm(x + product(up, 3, "down"), (width,), b[6], b[7], epsilon)
    return x


encoder_pack = define(
    "encoder_pack",
    "(Tensor weight, str number) -> Tensor",
    pack,
    lambda weight, number: weight.new_empty(packed_bytes(number, *weight.shape), dtype=torch.uint8),
)
"""weight float32 [N, K] to uint8, rounded and laid out for the other operators; K is at most
`encoder_checks.INT8_INPUTS` for int8, here and in them."""

encoder_linear = define(
    "encoder_linear",
    "(Tensor x, Tensor packed, Tensor bias, str activation, str number) -> Tensor",
    encoder_linear_reference,
    lambda x, packed, bias, activation, number: x.new_empty(len(x), len(bias)),
)
"""x float32 or bfloat16 [T, K], bias float32 [N], to [T, N] as x."""

packed_attention = define(
    "packed_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor cu_queries, Tensor cu_keys, int heads, float scale, "
    "bool causal) -> Tensor",
    packed_attention_reference,
    lambda q, k, v, cu_queries, cu_keys, heads, scale, causal: q.new_empty(q.shape),
)
"""q [T, D], k and v [T', D], float32 or bfloat16, to [T, D]; softmax in float32.

A text's queries are at its last places: with `causal`, the last query sees every key.
"""

pool_texts = define(
    "pool_texts",
    "(Tensor hidden, Tensor cu_seqlens, str mode, bool normalize) -> Tensor",
    pool_texts_reference,
    lambda hidden, cu_seqlens, mode, normalize: hidden.new_empty(
        len(cu_seqlens) - 1, hidden.shape[1], dtype=torch.float32
    ),
)
"""hidden float32 or bfloat16 [T, D] to float32 [B, D]; modes are `POOLINGS`."""

encoder_forward = define(
    "encoder_forward",
    "(Tensor tokens, Tensor cu_seqlens, Tensor words, Tensor places, Tensor[] weights, "
    "Tensor[] vectors, int heads, int inner, float epsilon, str activation, str number, "
    "Tensor[] adapters, Tensor[] adapter_ranks, Tensor text_adapters) -> Tensor",
    encoder_forward_reference,
    lambda tokens, cu_seqlens, words, *rest: words.new_empty(
        len(tokens), words.shape[1], dtype=torch.float32
    ),
)
"""tokens int32 [T], words [V, D], places float32 [P, D], to the last layer's rows float32 [T, D].

`weights`, packed, for each layer: q, k and v joined [3 D, D], attention's output [D, D], up
[inner, D], down [D, inner]; the first as `qkv_number` says, the others as `number`. `vectors`,
float32: the embeddings' norm (weight, bias), then for each layer the four biases, attention's norm
and the layer's.

Each text may be under an adapter (LoRA) of native_ops/encoder_adapters.py: `adapters` and
`adapter_ranks` are the two tensors of each, text_adapters int32 [B] says which one a text is under,
-1: none; without adapters it is empty. Texts may be in any order; where those under one adapter are
neighbours, its weights are read once. A text's bits depend on that text and its adapter alone.
"""
