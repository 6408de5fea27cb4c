"""T5, T5 1.1, Flan-T5 and mT5: an encoder reads the source, a decoder answers.

The decoder's tokens are as ragged as a causal model's; a slot holds, beside its own keys and
values, those of its source. N tokens of a step, P source tokens.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ironcliw.errors import ContextLengthError, RequestError
from serve.engines.decoders.attention import Attention
from serve.engines.decoders.base import Placement, TorchDecoder
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.kv_cache import KvCache, KvShape
from serve.engines.decoders.norms import RmsNorm
from serve.engines.decoders.projections import unquantized
from serve.engines.decoders.ragged import Plan
from serve.engines.decoders.t5_layers import DecoderLayer, T5Encoder, T5Loader, T5Shape
from serve.engines.linear import Linear
from serve.engines.protocol import Tokens
from serve.engines.weights import Weights

MODEL_TYPES = ("t5", "mt5")


class T5Decoder(TorchDecoder):
    """A `Decoder` of this family.

    `kv_bytes` limits what the decoder's own tokens take; sources take as much a position, at most
    `context` of them a slot, and are counted in `resident_bytes`.

    Args:
        folder: The model's folder, read and checked.
        placement: Where and how to compute.

    Raises:
        ModelLoadError: the weights do not fit config.json, or it asks for what is not supported.
    """

    def __init__(self, folder: GenerationFolder, placement: Placement) -> None:
        self._shape = shape = T5Shape.read(folder.config)
        kv_shape = KvShape(shape.decoder_layers, shape.heads, shape.head_width)
        super().__init__(placement, shape.vocabulary, folder.context, kv_shape)
        device, dtype = placement.device, placement.dtype
        self._start_token = folder.start_token
        self._sources = KvCache(
            kv_shape,
            slots=placement.slots,
            context=folder.context,
            limit_bytes=placement.slots * folder.context * kv_shape.position_bytes(dtype),
            dtype=dtype,
            device=device,
        )
        self._norm = RmsNorm(shape.width, shape.epsilon, device)
        self._attention = Attention(shape.heads, shape.heads, shape.head_width, scale=1.0)
        self._layers: list[DecoderLayer] = []
        with (
            torch.inference_mode(),
            Weights(folder.tensors, "shared.weight", dtype, device, placement.counter) as weights,
        ):
            self._words = weights.take("shared.weight", shape.vocabulary, shape.width)
            loader = T5Loader(weights, shape, placement)
            self._encoder: T5Encoder | None = T5Encoder(loader, shape, folder.context, device)
            source_norm = loader.norm("encoder.final_layer_norm.weight")
            layers = range(shape.decoder_layers)
            self._layers = [loader.decoder_layer(index, source_norm) for index in layers]
            # distances key - query of a decoder are 0 and less; here by how far back
            self._bias_table = loader.bias("decoder", -torch.arange(folder.context))
            untied = "lm_head.weight" in folder.tensors
            self._head: Linear | None = self._load_head(loader, untied=untied)

    @property
    def start_token(self) -> int | None:
        return self._start_token

    def begin(self, slot: int, source: Tokens) -> None:
        self._check_open()
        self.free(slot)
        if not 0 < len(source) <= self.context:
            raise ContextLengthError(
                f"a source of {len(source)} tokens; this model reads 1 to {self.context}"
            )
        wrong = np.flatnonzero((source < 0) | (source >= self.vocabulary))
        if len(wrong):
            raise RequestError(
                f"token {int(wrong[0])} of the source is {int(source[wrong[0]])}; this model's ids "
                f"go from 0 to {self.vocabulary - 1}"
            )
        assert self._encoder is not None
        count = len(source)
        place = np.arange(count, dtype=np.int64)
        places = self._sources.places(np.full(count, slot, np.int64), place)
        with torch.inference_mode():
            tokens = torch.from_numpy(source.astype(np.int64)).to(self._device)
            states = self._encoder(F.embedding(tokens, self._words))
            for index, layer in enumerate(self._layers):
                self._sources.write(places[index], layer.source(states)[:count])
        self._sources.held[slot] = count

    def free(self, slot: int) -> None:
        super().free(slot)
        if not self._closed:
            self._sources.free(slot)

    def _run(self, plan: Plan, rows: int) -> torch.Tensor:
        shape, cache, count = self._shape, self._cache, len(plan.tokens)
        empty = [slot for slot, _ in plan.ends if self._sources.held[slot] == 0]
        if empty:
            raise RequestError(f"slot {empty[0]} has no source; begin() it first")
        width = shape.heads * shape.head_width
        places = cache.places(plan.slots, plan.positions)
        calls = self._attention.prepare(plan, cache, self._bias)
        lengths = self._sources.held.tolist()
        source_calls = self._attention.prepare_source(plan, self._sources, lengths)
        hidden = F.embedding(self._padded(plan.tokens, rows), self._words)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._norm(hidden))
            cache.write(places[index], qkv[:count, width:])
            context = self._attention(qkv[:, :width], calls, index)
            hidden = layer.attention_out.add(context, hidden)
            queries = layer.query(self._norm(hidden))
            context = self._attention(queries, source_calls, index)
            hidden = layer.source_out.add(context, hidden)
            hidden = layer.down.add(layer.up(self._norm(hidden)), hidden)
        assert self._head is not None
        return self._head(self._norm(self._wanted(hidden, plan)))

    def _bias(self, positions: torch.Tensor, keys: int) -> torch.Tensor:
        """[S, n] to [S, H, n, keys]; later keys get the bias of distance 0 and are masked."""
        places = torch.arange(keys, device=self._device)
        back = (positions[..., None] - places).clamp_(min=0)
        return self._bias_table[:, back].transpose(0, 1)

    def _load_head(self, loader: T5Loader, *, untied: bool) -> Linear:
        shape = self._shape
        norm = loader.norm("decoder.final_layer_norm.weight")
        if shape.scaled_head:
            norm = norm * shape.width**-0.5
        if untied:
            return unquantized(loader.scaled("lm_head.weight", norm, shape.vocabulary))
        return unquantized((self._words.float() * norm).to(self._words.dtype))

    def _weight_bytes(self) -> int:
        held = self._words.nbytes + self._bias_table.nbytes + self._sources.limit_bytes
        held += 0 if self._head is None else self._head.resident_bytes
        held += 0 if self._encoder is None else self._encoder.resident_bytes
        for x in self._layers:
            parts = (x.qkv, x.attention_out, x.query, x.source, x.source_out, x.up, x.down)
            held += sum(part.resident_bytes for part in parts)
        return held

    def _drop(self) -> None:
        self._layers = []
        self._head = self._encoder = None
        self._words = self._bias_table = torch.empty(0)
        del self._sources
