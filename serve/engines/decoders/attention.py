"""Ragged causal attention over the KV cache: a call for each span of a step.

Query heads stand as [G, H]: group-major, so that H neighbouring heads read the H key heads. The G
queries of a key head are rows of one product, for keys and values are read once that way. N tokens,
S slots of a span, n tokens of each, len positions, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from serve.engines.decoders.kv_cache import KvCache
from serve.engines.decoders.ragged import Plan, Span

BiasOf = Callable[[torch.Tensor, int], torch.Tensor]
"""Positions of queries [S, n] and the number of keys to a bias [S, heads, n, keys]."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One span, ready for every layer."""

    span: Span
    mask: torch.Tensor | None
    causal: bool
    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]


class Attention:
    """Of one shape of model.

    Args:
        heads: Query heads, G H.
        kv_heads: Key and value heads, H.
        width: Of a head, d.
        scale: Of the scores; None: d ** -0.5.
    """

    def __init__(self, heads: int, kv_heads: int, width: int, scale: float | None = None) -> None:
        self._groups = heads // kv_heads
        self._kv_heads = kv_heads
        self._width = width
        self._scale = scale

    def prepare(self, plan: Plan, cache: KvCache, bias: BiasOf | None = None) -> list[_Call]:
        """What is the same in every layer of a step: views of the cache, and masks."""
        dtype, device = cache.dtype, cache.device
        return [self._call(span, cache, _mask(span, dtype, device, bias)) for span in plan.spans]

    def prepare_source(self, plan: Plan, source: KvCache, lengths: Sequence[int]) -> list[_Call]:
        """The same for attention over sources, each read whole by every token.

        Args:
            plan: Of the step.
            source: Keys and values of the sources.
            lengths: Of every slot's source.
        """
        calls: list[_Call] = []
        for span in plan.spans:
            whole = tuple(lengths[span.slot : span.slot + len(span.lengths)])
            read = Span(span.start, span.slot, whole, span.count)
            mask = None
            if min(whole) < max(whole):
                mask = _padding(whole, source.dtype, source.device)
            calls.append(self._call(read, source, (mask, False)))
        return calls

    def __call__(self, queries: torch.Tensor, calls: Sequence[_Call], layer: int) -> torch.Tensor:
        """[T, G H d], of which the calls cover the first rows, to the contexts [T, G H d]."""
        parts = [self._attend(queries, call, layer) for call in calls]
        end = calls[-1].span.end
        if end < len(queries):
            parts.append(queries.new_zeros(len(queries) - end, queries.shape[1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _call(self, span: Span, cache: KvCache, masked: tuple[torch.Tensor | None, bool]) -> _Call:
        keys, values = cache.read(span.slot, len(span.lengths), span.longest)
        return _Call(span, *masked, keys, values)

    def _attend(self, queries: torch.Tensor, call: _Call, layer: int) -> torch.Tensor:
        span, groups, heads, width = call.span, self._groups, self._kv_heads, self._width
        keys, values = call.keys[layer], call.values[layer]
        rows = queries[span.start : span.end]
        if span.count == 1:
            # [S, H, G, d]: the group's heads are the rows of a product
            q = rows.view(-1, groups, heads, width).transpose(1, 2)
            context = F.scaled_dot_product_attention(
                q, keys, values, attn_mask=call.mask, scale=self._scale
            )
            return context.transpose(1, 2).reshape(len(rows), -1)
        # [G, H, n, d]: every group reads the same keys, which are not copied
        q = rows.view(span.count, groups, heads, width).permute(1, 2, 0, 3)
        context = F.scaled_dot_product_attention(
            q,
            keys.expand(groups, -1, -1, -1),
            values.expand(groups, -1, -1, -1),
            attn_mask=call.mask,
            is_causal=call.causal,
            scale=self._scale,
        )
        return context.permute(2, 0, 1, 3).reshape(len(rows), -1)


def _mask(
    span: Span, dtype: torch.dtype, device: torch.device, bias: BiasOf | None
) -> tuple[torch.Tensor | None, bool]:
    """The additive mask that broadcasts to [S, heads, n, len], or whether plain causal will do."""
    first = span.lengths[0] - span.count
    mask = None
    if span.count == 1:
        if min(span.lengths) < span.longest:
            mask = _padding(span.lengths, dtype, device)
    elif first == 0 and bias is None:
        return None, True
    else:
        mask = torch.full((span.count, span.longest), -torch.inf, dtype=dtype, device=device)
        mask = mask.triu_(first + 1)[None, None]
    if bias is None:
        return mask, False
    lengths = torch.tensor(span.lengths, device=device)[:, None]
    positions = lengths - span.count + torch.arange(span.count, device=device)
    added = bias(positions, span.longest)
    return added if mask is None else added + mask, False


def _padding(lengths: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[S, 1, 1, longest]: -inf behind each slot's length."""
    ends = torch.tensor(lengths, device=device)[:, None]
    mask = torch.zeros(len(lengths), max(lengths), dtype=dtype, device=device)
    return mask.masked_fill_(torch.arange(max(lengths), device=device) >= ends, -torch.inf)[
        :, None, None
    ]
