"""The decoder step in plain torch: the same plan and the same cache, float32 activations.

Slow, and easy to read next to csrc/decoder.cpp. N tokens, D width, H heads, K key and value heads
(G = H / K), d width of a head, T positions held. Weights are dequantised; activations are not
quantised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from native_ops.checks import check_ids, check_tensor, need
from native_ops.decoder_adapters import AdapterReader
from native_ops.decoder_model import DecoderModel
from native_ops.decoder_plan import DecoderShape, layer_elements

_OPERATOR = "decoder_step"


def decoder_step_reference(
    weights: torch.Tensor,
    plan: torch.Tensor,
    cache: torch.Tensor,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    logit_rows: torch.Tensor,
    vocabulary: int,
    adapters: list[torch.Tensor],
    adapter_plans: list[torch.Tensor],
    row_adapters: torch.Tensor,
) -> torch.Tensor:
    """As `decoder_step`, with the same checks."""
    rows = {"tokens": tokens, "positions": positions, "slots": slots, "logit_rows": logit_rows}
    _check_tensors(weights, plan, cache, rows)
    model = DecoderModel(weights, plan, len(cache))
    rule = f"vocabulary must be the plan's {model.shape.vocabulary}; it is {vocabulary}"
    need(vocabulary == model.shape.vocabulary, _OPERATOR, rule)
    adapted = _adapted(model, adapters, adapter_plans, row_adapters, len(tokens))
    _check_step(model, tokens, positions, slots, logit_rows)
    x = _embed(model, tokens.long(), positions.long())
    runs = _runs(slots)
    for layer in range(model.shape.layers):
        x = x + _attention(adapted, layer, x, cache, positions.long(), runs)
        x = x + _mlp(adapted, layer, x)
    return F.linear(model.norm("norm", x[logit_rows.long()]), model.matrix("head"))


@dataclass(frozen=True, slots=True)
class _Adapted:
    """A model, and the adapters of a step's rows."""

    model: DecoderModel
    adapters: list[AdapterReader]
    rows: torch.Tensor

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """A product with its bias, and what each row's adapter adds."""
        y = self.model.linear(name, x)
        for number, adapter in enumerate(self.adapters):
            change, mine = adapter.change(name), self.rows == number
            if change is not None:
                y[mine] += change.scale * (x[mine] @ change.a.T) @ change.b.T
        return y


def _adapted(
    model: DecoderModel,
    adapters: list[torch.Tensor],
    plans: list[torch.Tensor],
    rows: torch.Tensor,
    count: int,
) -> _Adapted:
    given = f"the {len(adapters)} adapters; they are {len(plans)}"
    need(len(adapters) == len(plans), _OPERATOR, f"adapter_plans must be one for each of {given}")
    check_tensor(_OPERATOR, "row_adapters", rows, torch.int32, (count if adapters else 0,))
    for at, row in enumerate(rows.tolist()):
        rule = f"row_adapters must be from -1 to {len(adapters) - 1}; element {at} is {row}"
        need(-1 <= row < len(adapters), _OPERATOR, rule)
    readers = []
    for at, (weights, plan) in enumerate(zip(adapters, plans, strict=True)):
        check_tensor(_OPERATOR, f"adapters[{at}]", weights, torch.uint8, (None,))
        check_tensor(_OPERATOR, f"adapter_plans[{at}]", plan, torch.int64, (None,))
        together = weights.is_contiguous() and plan.is_contiguous()
        need(together, _OPERATOR, "adapters and adapter_plans must be contiguous")
        aligned = weights.data_ptr() % 4 == 0
        need(aligned, _OPERATOR, "adapters must start at a multiple of 4 bytes")
        readers.append(AdapterReader(weights, plan, model.shape))
    return _Adapted(model, readers, rows)


def _check_tensors(
    weights: torch.Tensor, plan: torch.Tensor, cache: torch.Tensor, rows: dict[str, torch.Tensor]
) -> None:
    for name, t, dtype in (
        ("weights", weights, torch.uint8),
        ("plan", plan, torch.int64),
        ("cache", cache, torch.float16),
    ):
        check_tensor(_OPERATOR, name, t, dtype, (None,))
    for name, t in rows.items():
        count = None if name in ("tokens", "logit_rows") else len(rows["tokens"])
        check_tensor(_OPERATOR, name, t, torch.int32, (count,))
    need(len(rows["tokens"]) > 0, _OPERATOR, "tokens must have an element")
    together = weights.is_contiguous() and cache.is_contiguous()
    need(together, _OPERATOR, "weights and cache must be contiguous")


def _check_step(
    model: DecoderModel,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    logit_rows: torch.Tensor,
) -> None:
    check_ids(_OPERATOR, "tokens", tokens, model.shape.vocabulary)
    check_ids(_OPERATOR, "positions", positions, model.shape.context)
    check_ids(_OPERATOR, "slots", slots, model.slots)
    check_ids(_OPERATOR, "logit_rows", logit_rows, len(tokens))
    _check_rule("logit_rows must rise", logit_rows, logit_rows.diff() > 0)
    runs = _runs(slots)
    seen = set()
    for slot, begin, end in runs:
        rule = f"slots must have their tokens together; slot {slot} comes again at element {begin}"
        need(slot not in seen, _OPERATOR, rule)
        seen.add(slot)
        rising = torch.ones(len(tokens) - 1, dtype=torch.bool, device=tokens.device)
        rising[begin : end - 1] = positions[begin:end].diff() == 1
        _check_rule("positions must rise by one in a slot", positions, rising)


def _check_rule(rule: str, values: torch.Tensor, holds: torch.Tensor) -> None:
    """Of neighbours: the i-th of `holds` is about values i and i + 1."""
    broken = (~holds).nonzero()
    if len(broken):
        at = int(broken[0])
        pair = values[at : at + 2].tolist()
        given = f"elements {at} and {at + 1} are {pair[0]} and {pair[1]}"
        need(False, _OPERATOR, f"{rule}; {given}")


def _runs(slots: torch.Tensor) -> list[tuple[int, int, int]]:
    """Slot, first token, one behind the last."""
    values, counts = torch.unique_consecutive(slots, return_counts=True)
    ends = counts.cumsum(0)
    rows = zip(values.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
    return [(slot, begin, end) for slot, begin, end in rows]


def _embed(model: DecoderModel, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    x = model.matrix("embedding")[tokens]
    return x + model.matrix("positions")[positions] if model.has("positions") else x


def _attention(
    adapted: _Adapted,
    layer: int,
    x: torch.Tensor,
    cache: torch.Tensor,
    positions: torch.Tensor,
    runs: list[tuple[int, int, int]],
) -> torch.Tensor:
    model, prefix = adapted.model, f"layers.{layer}."
    shape = model.shape
    normed = model.norm(prefix + "attention_norm", x)
    query, key, value = (
        adapted.linear(prefix + name, normed).view(len(x), -1, shape.head_width)
        for name in ("query", "key", "value")
    )
    query = _turn(model, prefix + "query_norm.weight", query, positions) * shape.scale
    key = _turn(model, prefix + "key_norm.weight", key, positions)
    out = torch.empty_like(query)
    for slot, begin, end in runs:
        at, length = positions[begin:end], int(positions[end - 1]) + 1
        keys, values = _slot_views(model, cache, slot, layer)
        keys[:, at // 16, :, at % 16] = key[begin:end].to(cache.dtype)
        values[:, at, : shape.head_width] = value[begin:end].transpose(0, 1).to(cache.dtype)
        held = keys.transpose(2, 3).flatten(1, 2)[:, :length].float()
        scores = torch.einsum("nkgd,ktd->kgnt", _groups(shape, query[begin:end]), held)
        hidden = torch.arange(length, device=x.device) > at[:, None]
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        read = values[:, :length, : shape.head_width].float()
        out[begin:end] = torch.einsum("kgnt,ktd->nkgd", weights, read).flatten(1, 2)
    return adapted.linear(prefix + "output", out.flatten(1))


def _groups(shape: DecoderShape, query: torch.Tensor) -> torch.Tensor:
    """[N, H, d] to [N, K, G, d]."""
    return query.view(len(query), shape.kv_heads, -1, shape.head_width)


def _turn(model: DecoderModel, norm: str, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
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
    model: DecoderModel, cache: torch.Tensor, slot: int, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [K, context / 16, d, 16] and values [K, context, d filled up to 16] of a slot."""
    shape = model.shape
    blocks, d = -(-shape.context // 16), shape.head_width
    wide = -(-d // 16) * 16
    head = blocks * 16 * (d + wide)
    begin = slot * model.slot_elements + layer * layer_elements(shape)
    heads = cache[begin : begin + shape.kv_heads * head].view(shape.kv_heads, head)
    keys = heads[:, : blocks * 16 * d].view(shape.kv_heads, blocks, d, 16)
    return keys, heads[:, blocks * 16 * d :].view(shape.kv_heads, blocks * 16, wide)


def _mlp(adapted: _Adapted, layer: int, x: torch.Tensor) -> torch.Tensor:
    model, prefix = adapted.model, f"layers.{layer}."
    normed = model.norm(prefix + "mlp_norm", x)
    up = adapted.linear(prefix + "up", normed)
    inner = adapted.linear(prefix + "gate", normed) if model.shape.gated else up
    activation = model.shape.activation
    if activation == "silu":
        inner = F.silu(inner)
    elif activation == "relu":
        inner = F.relu(inner)
    else:
        inner = F.gelu(inner, approximate="tanh" if activation == "gelu_tanh" else "none")
    return adapted.linear(prefix + "down", inner * up if model.shape.gated else inner)
