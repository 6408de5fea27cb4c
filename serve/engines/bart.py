"""BART on compiled kernels, up to the row that a classifier reads: the decoder's at the last end.

The encoder is that of the BERT family. The decoder reads the same text, moved on by one token, and
looks at the encoder's rows; of its last layer only the rows that are asked for are computed.

B texts, T tokens, T' tokens of the decoder, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ironcliw.encoder_folder import EncoderFolder
from native_ops.encoder import packed_attention
from native_ops.encoder_layout import qkv_number
from native_ops.norms import add_layer_norm
from serve.engines.bart_weights import (
    NORM_EPSILON,
    BartArchitecture,
    DecoderLayerWeights,
    open_bart,
)
from serve.engines.native_stack import NativeStack, PackedLinear, Texts, name_of
from serve.engines.packed_weights import Affine
from serve.engines.weights import LoadCounter

STEP_TOKENS = 4096
"""Tokens of one call: the decoder's rows take some 40 KB a token of BART-large."""


class BartBody:
    """Encoder and decoder; see `serve.engines.packed_classifier.Body`.

    Args:
        folder: The model's folder, read and checked.
        architecture: What `bart_like` made of its config.
        dtype: What weights are kept as: float32, bfloat16 or int8.
        counter: Told of the weights that are taken.
    """

    step_tokens = STEP_TOKENS

    def __init__(
        self,
        folder: EncoderFolder,
        architecture: BartArchitecture,
        dtype: torch.dtype,
        counter: LoadCounter | None,
    ) -> None:
        self._architecture = architecture
        self._attended = _attended(name_of(dtype))
        with open_bart(folder, architecture, counter) as weights:
            self._words = weights.words(torch.bfloat16 if dtype == torch.int8 else dtype)
            places = weights.places("encoder")
            self._encoder = NativeStack(
                dtype,
                architecture.encoder_heads,
                architecture.activation,
                NORM_EPSILON,
                places,
                weights.embedding_norm("encoder"),
            )
            for layer in weights.encoder_layers():
                self._encoder.add(layer)
            self._places = weights.places("decoder")
            self._norm = weights.embedding_norm("decoder")
            self._layers = [
                _DecoderLayer(layer, architecture, dtype) for layer in weights.decoder_layers()
            ]
        self.vocabulary = len(self._words)
        self.positions = min(len(places), len(self._places))
        self.end: int | None = architecture.end

    @property
    def resident_bytes(self) -> int:
        tensors = (self._words, self._places, self._norm.weight, self._norm.bias)
        layers = sum(layer.resident_bytes for layer in self._layers)
        return sum(tensor.nbytes for tensor in tensors) + self._encoder.resident_bytes + layers

    def rows(self, texts: Texts) -> torch.Tensor:
        # keys and values are made of it in each layer, of its rounded numbers anyway
        encoded = self._encoder(texts, self._words).to(self._attended)
        read = self._decoder_texts(texts)
        lengths = read.starts.diff().long()
        places = torch.arange(len(read.tokens)) - read.starts[:-1].long().repeat_interleave(lengths)
        embedded = F.embedding(read.tokens, self._words).float() + self._places[places]
        x = _normed(embedded, None, self._norm)
        for layer in self._layers[:-1]:
            x = layer(x, read.starts, encoded, texts.starts)
        return self._layers[-1].last_rows(x, read.starts, encoded, texts.starts)

    def _decoder_texts(self, texts: Texts) -> Texts:
        """Up to the last end token of each text, moved on by one token, the start token first."""
        tokens, starts = texts.tokens, texts.starts.long()
        ends = torch.nonzero(tokens == self._architecture.end).view(-1)
        # the last end token before each text's end; what is behind it cannot change its row
        last = ends[torch.searchsorted(ends, starts[1:]) - 1]
        lengths = last + 1 - starts[:-1]
        moved = tokens.roll(1)
        moved[starts[:-1]] = self._architecture.decoder_start
        text = torch.arange(len(lengths)).repeat_interleave(starts.diff())
        kept = torch.arange(len(tokens)) <= last[text]
        return Texts(moved[kept], F.pad(lengths.cumsum(0), (1, 0)).int())


class _DecoderLayer:
    """Causal attention, attention to the encoder's rows, feed-forward; a layer norm after each."""

    def __init__(
        self, taken: DecoderLayerWeights, architecture: BartArchitecture, dtype: torch.dtype
    ) -> None:
        number = name_of(dtype)
        asking = qkv_number(number)
        self._attended = _attended(number)
        self._heads = architecture.decoder_heads
        self._scale = (architecture.hidden // self._heads) ** -0.5
        self._activation = architecture.activation
        self._q, self._kv = PackedLinear(taken.q, asking), PackedLinear(taken.kv, asking)
        self._out = PackedLinear(taken.out, number)
        self._cross_q = PackedLinear(taken.cross_q, asking)
        self._cross_kv = PackedLinear(taken.cross_kv, asking)
        self._cross_out = PackedLinear(taken.cross_out, number)
        self._up, self._down = PackedLinear(taken.up, number), PackedLinear(taken.down, number)
        self._norms = (taken.norm, taken.cross_norm, taken.last_norm)

    @property
    def resident_bytes(self) -> int:
        linears = (self._q, self._kv, self._out, self._up, self._down)
        cross = (self._cross_q, self._cross_kv, self._cross_out)
        held = sum(linear.resident_bytes for linear in (*linears, *cross))
        return held + sum(norm.weight.nbytes + norm.bias.nbytes for norm in self._norms)

    def __call__(
        self,
        x: torch.Tensor,
        starts: torch.Tensor,
        encoded: torch.Tensor,
        encoded_starts: torch.Tensor,
    ) -> torch.Tensor:
        """[T', D] to [T', D]."""
        return self._run(_Rows(x, starts), x, starts, encoded, encoded_starts)

    def last_rows(
        self,
        x: torch.Tensor,
        starts: torch.Tensor,
        encoded: torch.Tensor,
        encoded_starts: torch.Tensor,
    ) -> torch.Tensor:
        """[T', D] to [B, D], each text's last row; the others serve as keys and values alone."""
        each = torch.arange(len(starts), dtype=torch.int32)
        asking = _Rows(x[starts[1:].long() - 1], each)
        return self._run(asking, x, starts, encoded, encoded_starts)

    def _run(
        self,
        asking: _Rows,
        x: torch.Tensor,
        starts: torch.Tensor,
        encoded: torch.Tensor,
        encoded_starts: torch.Tensor,
    ) -> torch.Tensor:
        attention, cross, feed_forward = self._norms
        hidden = asking.x
        q, kv = self._q(hidden.to(self._attended)), self._kv(x.to(self._attended))
        seen = self._attend(q, asking.starts, kv, starts, causal=True)
        hidden = _normed(self._out(seen), hidden, attention)
        q, kv = self._cross_q(hidden.to(self._attended)), self._cross_kv(encoded)
        seen = self._attend(q, asking.starts, kv, encoded_starts)
        hidden = _normed(self._cross_out(seen), hidden, cross)
        return _normed(self._down(self._up(hidden, self._activation)), hidden, feed_forward)

    def _attend(
        self,
        q: torch.Tensor,
        starts: torch.Tensor,
        kv: torch.Tensor,
        key_starts: torch.Tensor,
        *,
        causal: bool = False,
    ) -> torch.Tensor:
        k, v = kv.chunk(2, 1)
        seen: torch.Tensor = packed_attention(
            q, k, v, starts, key_starts, self._heads, self._scale, causal
        )
        # what is added to the residual, which is float32, comes out of the next product in its type
        return seen.float()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows [T', D] that ask, and where each text's begin, int32 [B + 1]."""

    x: torch.Tensor
    starts: torch.Tensor


def _attended(number: str) -> torch.dtype:
    """Type of queries, keys and values; of the products of attention, too."""
    return torch.float32 if number == "float32" else torch.bfloat16


def _normed(x: torch.Tensor, residual: torch.Tensor | None, norm: Affine) -> torch.Tensor:
    y: torch.Tensor = add_layer_norm(x, residual, norm.weight, norm.bias, NORM_EPSILON)
    return y
