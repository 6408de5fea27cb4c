"""The parts of T5: what config.json says, relative position bias, layers and the encoder.

P source tokens, T rows of a step, D width of the model, H heads, d width of a head. T5 does not
scale its scores, and the norm's weight is a part of the projection behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ironcliw.errors import ModelLoadError
from serve.engines.decoders.base import Placement
from serve.engines.decoders.config import activation, number, size
from serve.engines.decoders.norms import RmsNorm
from serve.engines.decoders.projections import Activation, Projection, padded_rows
from serve.engines.linear import Linear
from serve.engines.weights import Weights


@dataclass(frozen=True, slots=True)
class T5Shape:
    """What config.json says of the network."""

    vocabulary: int
    width: int
    layers: int
    decoder_layers: int
    heads: int
    head_width: int
    inner: int
    buckets: int
    farthest: int
    epsilon: float
    activation: Activation
    gated: bool
    scaled_head: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> T5Shape:
        """Raises ModelLoadError for what is missing or not supported."""
        kind, _, name = str(config.get("feed_forward_proj", "relu")).rpartition("-")
        if kind not in {"", "gated"}:
            raise ModelLoadError(
                f"config.json: feed_forward_proj {config.get('feed_forward_proj')!r} is unknown; "
                "supported are an activation, or gated- and an activation"
            )
        # transformers 5.23, T5Config: gated-gelu means the tanh form
        function = "gelu_new" if (kind, name) == ("gated", "gelu") else name
        layers = size(config, "num_layers")
        # T5 1.1 came with tie_word_embeddings false, which is how the scale was told apart
        tied = config.get("tie_word_embeddings") is not False
        return cls(
            vocabulary=size(config, "vocab_size"),
            width=size(config, "d_model"),
            layers=layers,
            decoder_layers=size(config, "num_decoder_layers", default=layers),
            heads=size(config, "num_heads"),
            head_width=size(config, "d_kv"),
            inner=size(config, "d_ff"),
            buckets=size(config, "relative_attention_num_buckets", default=32),
            farthest=size(config, "relative_attention_max_distance", default=128),
            epsilon=number(config, "layer_norm_epsilon", 1e-6),
            activation=activation(function),
            gated=kind == "gated",
            scaled_head=bool(config.get("scale_decoder_outputs", tied)),
        )


def relative_buckets(shape: T5Shape, distances: torch.Tensor, *, both_ways: bool) -> torch.Tensor:
    """The bucket of each distance key - query: half of them exact, half logarithmic.

    transformers 5.23, T5Attention._relative_position_bucket.
    """
    buckets, offset = shape.buckets, torch.zeros_like(distances)
    if both_ways:
        buckets //= 2
        offset = (distances > 0).long() * buckets
        distances = distances.abs()
    else:
        distances = -distances.clamp(max=0)
    exact = buckets // 2
    spread = torch.log(distances.float() / exact) / math.log(shape.farthest / exact)
    # the logarithm of 0 is not used: those distances are exact
    far = exact + (spread.clamp(min=0) * (buckets - exact)).long()
    return offset + torch.where(distances < exact, distances, far.clamp(max=buckets - 1))


@dataclass(frozen=True, slots=True)
class _EncoderLayer:
    qkv: Linear
    attention_out: Linear
    up: Projection
    down: Linear


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One block of the decoder; `source` gives keys and values of the encoder's output."""

    qkv: Linear
    attention_out: Linear
    query: Linear
    source: Linear
    source_out: Linear
    up: Projection
    down: Linear


class T5Loader:
    """Takes weights in the checkpoint's form and gives layers in ours."""

    def __init__(self, weights: Weights, shape: T5Shape, placement: Placement) -> None:
        self._weights = weights
        self._shape = shape
        self._dtype = placement.dtype
        self._make = placement.make_linear

    def encoder_layer(self, index: int) -> _EncoderLayer:
        """Self attention and feed-forward."""
        name = f"encoder.block.{index}.layer"
        norm = self.norm(f"{name}.0.layer_norm.weight")
        up, down = self._feed_forward(f"{name}.1")
        return _EncoderLayer(
            qkv=self._joined(f"{name}.0.SelfAttention", "qkv", norm),
            attention_out=self._out(f"{name}.0.SelfAttention"),
            up=up,
            down=down,
        )

    def decoder_layer(self, index: int, source_norm: torch.Tensor) -> DecoderLayer:
        """Self attention, attention over the source, feed-forward.

        Args:
            index: Of the block.
            source_norm: Weight of the encoder's last norm, which becomes a part of `source`.
        """
        name = f"decoder.block.{index}.layer"
        norm = self.norm(f"{name}.0.layer_norm.weight")
        query_norm = self.norm(f"{name}.1.layer_norm.weight")
        up, down = self._feed_forward(f"{name}.2")
        return DecoderLayer(
            qkv=self._joined(f"{name}.0.SelfAttention", "qkv", norm),
            attention_out=self._out(f"{name}.0.SelfAttention"),
            query=self._joined(f"{name}.1.EncDecAttention", "q", query_norm),
            source=self._joined(f"{name}.1.EncDecAttention", "kv", source_norm),
            source_out=self._out(f"{name}.1.EncDecAttention"),
            up=up,
            down=down,
        )

    def norm(self, name: str) -> torch.Tensor:
        """A norm's weight: float32 [D]."""
        return self._weights.take(name, self._shape.width, dtype=torch.float32)

    def bias(self, side: str, distances: torch.Tensor) -> torch.Tensor:
        """[H, distances], what is added to the scores at each distance key - query."""
        shape = self._shape
        name = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table = self._weights.take(name, shape.buckets, shape.heads)
        both_ways = side == "encoder"
        buckets = relative_buckets(shape, distances.to(table.device), both_ways=both_ways)
        return table[buckets].t().contiguous()

    def scaled(self, name: str, norm: torch.Tensor, outputs: int) -> torch.Tensor:
        """A projection [outputs, D] that includes the weight of the norm in front of it."""
        weight = self._weights.take(name, outputs, self._shape.width, dtype=torch.float32)
        return weight.mul_(norm).to(self._dtype)

    def _joined(self, name: str, parts: str, norm: torch.Tensor) -> Linear:
        outputs = self._shape.heads * self._shape.head_width
        rows = [self.scaled(f"{name}.{part}.weight", norm, outputs) for part in parts]
        return self._make(torch.cat(rows))

    def _out(self, name: str) -> Linear:
        inputs = self._shape.heads * self._shape.head_width
        return self._make(self._weights.take(f"{name}.o.weight", self._shape.width, inputs))

    def _feed_forward(self, name: str) -> tuple[Projection, Linear]:
        shape = self._shape
        norm = self.norm(f"{name}.layer_norm.weight")
        dense = f"{name}.DenseReluDense"
        up: Projection
        if shape.gated:
            gate = self.scaled(f"{dense}.wi_0.weight", norm, shape.inner)
            other = self.scaled(f"{dense}.wi_1.weight", norm, shape.inner)
            up = self._make.gated(gate, other, None, shape.activation)
        else:
            weight = self.scaled(f"{dense}.wi.weight", norm, shape.inner)
            up = self._make.activated(weight, None, shape.activation)
        down = self._make(self._weights.take(f"{dense}.wo.weight", shape.width, shape.inner))
        return up, down


class T5Encoder:
    """Reads one source text at a time.

    Args:
        loader: Gives the layers.
        shape: Of the model.
        longest: Most source tokens.
        device: Where to compute.
    """

    def __init__(
        self, loader: T5Loader, shape: T5Shape, longest: int, device: torch.device
    ) -> None:
        self._shape = shape
        self._longest = longest
        self._device = device
        self._bias = loader.bias("encoder", torch.arange(1 - longest, longest))
        self._layers = [loader.encoder_layer(index) for index in range(shape.layers)]
        self._norm = RmsNorm(shape.width, shape.epsilon, device)

    @property
    def resident_bytes(self) -> int:
        """Bytes of its weights."""
        parts = [part for x in self._layers for part in (x.qkv, x.attention_out, x.up, x.down)]
        return self._bias.nbytes + sum(part.resident_bytes for part in parts)

    def __call__(self, words: torch.Tensor) -> torch.Tensor:
        """Word vectors [P, D] to normalised states [rows, D], of which the first P are real."""
        shape, count = self._shape, len(words)
        places = torch.arange(count, device=self._device)
        distances = places - places[:, None] + self._longest - 1
        bias = self._bias[:, distances][None]
        missing = padded_rows(count, self._device) - count
        hidden = F.pad(words, (0, 0, 0, missing))
        for layer in self._layers:
            parts = layer.qkv(self._norm(hidden))[:count].view(count, 3, shape.heads, -1)
            q, k, v = parts.permute(1, 2, 0, 3)[:, None].unbind(0)
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            context = context[0].transpose(0, 1).reshape(count, -1)
            hidden = layer.attention_out.add(F.pad(context, (0, 0, 0, missing)), hidden)
            hidden = layer.down.add(layer.up(self._norm(hidden)), hidden)
        return self._norm(hidden)
