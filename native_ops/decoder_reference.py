"""The decoder step in plain torch: the same plan and the same cache, float32 activations.

Slow, and easy to read next to csrc/decoder.cpp. N tokens, D width, H heads, K key and value heads
(G = H / K), d width of a head, T positions held. Weights are dequantised; activations are not
quantised.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from native_ops.decoder_plan import (
    ABSENT,
    ACTIVATIONS,
    LAYER_MATRICES,
    LAYER_VECTORS,
    MODEL_MATRICES,
    MODEL_VECTORS,
    NORMALIZATIONS,
    VERSION,
    DecoderShape,
    slot_elements,
)
from native_ops.packed_linear_reference import unpack_weight

_HEADER = 16


def decoder_step_reference(
    weights: torch.Tensor,
    plan: torch.Tensor,
    cache: torch.Tensor,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    logit_rows: torch.Tensor,
    vocabulary: int,
) -> torch.Tensor:
    """As `decoder_step`; the same checks of what a step says, fewer of the plan."""
    model = _Model(weights, plan)
    _check(model.shape.vocabulary == vocabulary, "vocabulary must be the plan's")
    _check_step(model, cache, tokens, positions, slots, logit_rows)
    x = _embed(model, tokens.long(), positions.long())
    runs = _runs(slots)
    for layer in range(model.shape.layers):
        x = x + _attention(model, layer, x, cache, positions.long(), runs)
        x = x + _mlp(model, layer, x)
    return F.linear(model.norm("norm", x[logit_rows.long()]), model.matrix("head"))


def _check(condition: bool, rule: str) -> None:
    if not condition:
        raise RuntimeError(f"ironcliw::decoder_step: {rule}")


def _check_step(
    model: _Model,
    cache: torch.Tensor,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    logit_rows: torch.Tensor,
) -> None:
    count = tokens.shape[0]
    _check(count > 0, "tokens must have an element")
    _check(positions.shape == tokens.shape, "positions must be as many as the tokens")
    _check(slots.shape == tokens.shape, "slots must be as many as the tokens")
    limits = (
        ("tokens", tokens, model.shape.vocabulary),
        ("positions", positions, model.shape.context),
        ("slots", slots, model.slots),
        ("logit_rows", logit_rows, count),
    )
    for name, values, limit in limits:
        inside = bool(((values >= 0) & (values < limit)).all())
        _check(inside, f"{name} must be from 0 to {limit - 1}")
    _check(bool((logit_rows.diff() > 0).all()), "logit_rows must rise")
    runs = _runs(slots)
    _check(len({slot for slot, _, _ in runs}) == len(runs), "slots must have their tokens together")
    for _, begin, end in runs:
        rising = bool((positions[begin:end].diff() == 1).all())
        _check(rising, "positions must rise by one in a slot")
    needed = model.slots * slot_elements(model.shape)
    _check(cache.numel() >= needed, f"cache must have {needed} elements; it has {cache.numel()}")


def _runs(slots: torch.Tensor) -> list[tuple[int, int, int]]:
    """Slot, first token, one behind the last."""
    values, counts = torch.unique_consecutive(slots, return_counts=True)
    ends = counts.cumsum(0)
    rows = zip(values.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
    return [(slot, begin, end) for slot, begin, end in rows]


@dataclass(frozen=True, slots=True)
class _Matrix:
    offset: int
    format: int


class _Model:
    """The parts that a plan names, as float32 tensors."""

    def __init__(self, weights: torch.Tensor, plan: torch.Tensor) -> None:
        numbers: list[int] = plan.tolist()
        _check(
            len(numbers) >= _HEADER and numbers[0] == VERSION, f"plan must have version {VERSION}"
        )
        self._weights = weights
        self.shape = _shape(numbers)
        self.slots = numbers[12]
        self._matrices: dict[str, _Matrix] = {}
        self._vectors: dict[str, int] = {}
        at = self._read(numbers, _HEADER, "", MODEL_MATRICES, MODEL_VECTORS)
        for layer in range(self.shape.layers):
            at = self._read(numbers, at, f"layers.{layer}.", LAYER_MATRICES, LAYER_VECTORS)

    def _read(
        self,
        numbers: list[int],
        at: int,
        prefix: str,
        matrices: tuple[str, ...],
        vectors: tuple[str, ...],
    ) -> int:
        end = at + 3 * len(matrices) + len(vectors)
        _check(len(numbers) >= end, f"plan must have {end} numbers or more")
        for name in matrices:
            self._matrices[prefix + name] = _Matrix(numbers[at], numbers[at + 1])
            at += 3
        for name in vectors:
            self._vectors[prefix + name] = numbers[at]
            at += 1
        return end

    def has(self, name: str) -> bool:
        """Whether a matrix or vector is there."""
        matrix = self._matrices.get(name)
        return (matrix.offset if matrix else self._vectors[name]) != ABSENT

    def matrix(self, name: str) -> torch.Tensor:
        """float32 [outputs, inputs]."""
        part = self._matrices[name]
        rows, columns = self.shape.matrix_size(_short(name))
        return unpack_weight(self._weights[part.offset :], part.format, rows, columns)

    def vector(self, name: str) -> torch.Tensor | None:
        """float32, or None where the plan has none."""
        offset = self._vectors[name]
        if offset == ABSENT:
            return None
        size = 4 * self.shape.vector_size(_short(name))
        return self._weights[offset : offset + size].view(torch.float32)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """A product with its bias."""
        return F.linear(x, self.matrix(name), self.vector(f"{name}.bias"))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The model's kind of norm over rows."""
        weight = self.vector(f"{name}.weight")
        epsilon = self.shape.epsilon
        if self.shape.normalization == "rms":
            return F.rms_norm(x, (x.shape[1],), weight, epsilon)
        return F.layer_norm(x, (x.shape[1],), weight, self.vector(f"{name}.bias"), epsilon)


def _shape(numbers: list[int]) -> DecoderShape:
    epsilon, scale = struct.unpack("<2f", struct.pack("<2I", numbers[13], numbers[14]))
    width, heads, kv_heads, head_width, inner, layers, vocabulary, context = numbers[4:12]
    return DecoderShape(
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        inner=inner,
        layers=layers,
        vocabulary=vocabulary,
        context=context,
        epsilon=epsilon,
        normalization=NORMALIZATIONS[numbers[1]],
        activation=ACTIVATIONS[numbers[2]],
        gated=bool(numbers[3]),
        score_scale=scale,
    )


def _short(name: str) -> str:
    return name.split(".", 2)[2] if name.startswith("layers.") else name


def _embed(model: _Model, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    x = model.matrix("embedding")[tokens]
    return x + model.matrix("positions")[positions] if model.has("positions") else x


def _attention(
    model: _Model,
    layer: int,
    x: torch.Tensor,
    cache: torch.Tensor,
    positions: torch.Tensor,
    runs: list[tuple[int, int, int]],
) -> torch.Tensor:
    shape, prefix = model.shape, f"layers.{layer}."
    normed = model.norm(prefix + "attention_norm", x)
    query, key, value = (
        model.linear(prefix + name, normed).view(len(x), -1, shape.head_width)
        for name in ("query", "key", "value")
    )
    query = _turn(model, prefix + "query_norm.weight", query, positions) * shape.scale
    key = _turn(model, prefix + "key_norm.weight", key, positions)
    out = torch.empty_like(query)
    for slot, begin, end in runs:
        at, length = positions[begin:end], int(positions[end - 1]) + 1
        keys, values = _slot_views(shape, cache, slot, layer)
        keys[:, at // 16, :, at % 16] = key[begin:end].to(cache.dtype)
        values[:, at, : shape.head_width] = value[begin:end].transpose(0, 1).to(cache.dtype)
        held = keys.transpose(2, 3).flatten(1, 2)[:, :length].float()
        scores = torch.einsum("nkgd,ktd->kgnt", _groups(shape, query[begin:end]), held)
        hidden = torch.arange(length, device=x.device) > at[:, None]
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        read = values[:, :length, : shape.head_width].float()
        out[begin:end] = torch.einsum("kgnt,ktd->nkgd", weights, read).flatten(1, 2)
    return model.linear(prefix + "output", out.flatten(1))


def _groups(shape: DecoderShape, query: torch.Tensor) -> torch.Tensor:
    """[N, H, d] to [N, K, G, d]."""
    return query.view(len(query), shape.kv_heads, -1, shape.head_width)


def _turn(model: _Model, norm: str, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Norm over heads and rotary embedding, where the model has them. x [N, heads, d]."""
    weight = model.vector(norm)
    if weight is not None:
        x = F.rms_norm(x, (x.shape[2],), weight, model.shape.epsilon)
    cosines, sines = model.vector("rotary.cosine"), model.vector("rotary.sine")
    if cosines is None or sines is None:
        return x
    cosine = cosines.view(model.shape.context, 1, -1)[positions]
    sine = sines.view(model.shape.context, 1, -1)[positions]
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def _slot_views(
    shape: DecoderShape, cache: torch.Tensor, slot: int, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [K, context / 16, d, 16] and values [K, context, d filled up to 16] of a slot."""
    blocks, d = -(-shape.context // 16), shape.head_width
    wide = -(-d // 16) * 16
    head = blocks * 16 * (d + wide)
    begin = slot * slot_elements(shape) + layer * shape.kv_heads * head
    heads = cache[begin : begin + shape.kv_heads * head].view(shape.kv_heads, head)
    keys = heads[:, : blocks * 16 * d].view(shape.kv_heads, blocks, d, 16)
    return keys, heads[:, blocks * 16 * d :].view(shape.kv_heads, blocks * 16, wide)


def _mlp(model: _Model, layer: int, x: torch.Tensor) -> torch.Tensor:
    prefix = f"layers.{layer}."
    normed = model.norm(prefix + "mlp_norm", x)
    up = model.linear(prefix + "up", normed)
    inner = model.linear(prefix + "gate", normed) if model.shape.gated else up
    activation = model.shape.activation
    if activation == "silu":
        inner = F.silu(inner)
    elif activation == "relu":
        inner = F.relu(inner)
    else:
        inner = F.gelu(inner, approximate="tanh" if activation == "gelu_tanh" else "none")
    return model.linear(prefix + "down", inner * up if model.shape.gated else inner)
