"""The Llama family: Llama, SmolLM2, Mistral, Qwen2, Qwen3.

T rows of a step, D width of the model, H key heads, G query heads of each, d width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ironcliw.errors import ModelLoadError
from serve.engines.decoders.attention import Attention
from serve.engines.decoders.base import Placement, TorchDecoder
from serve.engines.decoders.config import activation, number, size
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.kv_cache import KvShape
from serve.engines.decoders.norms import RmsNorm
from serve.engines.decoders.projections import Activation, Projection, unquantized
from serve.engines.decoders.ragged import Plan
from serve.engines.decoders.rotary import Rotary, frequencies, pairs_together
from serve.engines.linear import Linear
from serve.engines.weights import Weights

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """What config.json says of the network."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    context: int
    epsilon: float
    activation: Activation
    qkv_bias: bool
    out_bias: bool
    inner_bias: bool
    head_norms: bool
    tied: bool


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    attention_out: Linear
    gated: Projection
    down: Linear
    head_scale: torch.Tensor | None


class LlamaDecoder(TorchDecoder):
    """A `Decoder` of this family.

    Args:
        folder: The model's folder, read and checked.
        placement: Where and how to compute.

    Raises:
        ModelLoadError: the weights do not fit config.json, or it asks for what is not supported.
    """

    def __init__(self, folder: GenerationFolder, placement: Placement) -> None:
        self._shape = shape = read_shape(folder)
        kv_shape = KvShape(shape.layers, shape.kv_heads, shape.head_width)
        super().__init__(placement, shape.vocabulary, shape.context, kv_shape)
        device = placement.device
        self._rotary = Rotary(frequencies(folder.config, shape.head_width), device)
        self._norm = RmsNorm(shape.width, shape.epsilon, device)
        self._head_norm = RmsNorm(shape.head_width, shape.epsilon, device)
        self._attention = Attention(shape.heads, shape.kv_heads, shape.head_width)
        self._layers: list[_Layer] = []
        anchor = "model.embed_tokens.weight"
        with (
            torch.inference_mode(),
            Weights(folder.tensors, anchor, placement.dtype, device, placement.counter) as weights,
        ):
            self._words = weights.take(anchor, shape.vocabulary, shape.width)
            loader = _LayerLoader(weights, shape, placement)
            self._layers = [loader.layer(index) for index in range(shape.layers)]
            self._head: Linear | None = loader.head(self._words)

    def _run(self, plan: Plan, rows: int) -> torch.Tensor:
        shape, cache, count = self._shape, self._cache, len(plan.tokens)
        turned = (shape.heads + shape.kv_heads) * shape.head_width
        asked = shape.heads * shape.head_width
        turns = self._rotary.turns(self._padded(plan.positions, rows))
        places = cache.places(plan.slots, plan.positions)
        calls = self._attention.prepare(plan, cache)
        hidden = F.embedding(self._padded(plan.tokens, rows), self._words)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._norm(hidden))
            heads = qkv[:, :turned].view(rows, -1, shape.head_width)
            if layer.head_scale is not None:
                heads.copy_(self._head_norm(heads).mul_(layer.head_scale))
            self._rotary.apply(heads.view(rows, -1, shape.head_width // 2, 2), turns)
            cache.write(places[index], qkv[:count, asked:])
            context = self._attention(qkv[:, :asked], calls, index)
            hidden = layer.attention_out.add(context, hidden)
            hidden = layer.down.add(layer.gated(self._norm(hidden)), hidden)
        assert self._head is not None
        return self._head(self._norm(self._wanted(hidden, plan)))

    def _weight_bytes(self) -> int:
        held = self._words.nbytes + (self._head.resident_bytes if self._head else 0)
        for layer in self._layers:
            parts = (layer.qkv, layer.attention_out, layer.gated, layer.down)
            held += sum(part.resident_bytes for part in parts)
            held += 0 if layer.head_scale is None else layer.head_scale.nbytes
        return held

    def _drop(self) -> None:
        self._layers = []
        self._head = None
        self._words = torch.empty(0)


class _LayerLoader:
    """Takes weights in the checkpoint's form and gives layers in ours.

    Ours: the norm's weight is a part of the projection behind it, query heads are group-major (see
    `Attention`), rotary pairs stand together (see `rotary`).
    """

    def __init__(self, weights: Weights, shape: LlamaShape, placement: Placement) -> None:
        self._weights = weights
        self._shape = shape
        self._dtype = placement.dtype
        self._make = placement.make_linear

    def layer(self, index: int) -> _Layer:
        shape, weights = self._shape, self._weights
        name = f"model.layers.{index}"
        mlp = f"{name}.mlp"
        norm = self._norm(f"{name}.post_attention_layernorm.weight")
        gate, up = (
            self._scaled(f"{mlp}.{part}_proj.weight", norm, shape.inner) for part in ("gate", "up")
        )
        biases = None
        if shape.inner_bias:
            gate_bias, up_bias = (
                weights.take(f"{mlp}.{part}_proj.bias", shape.inner) for part in ("gate", "up")
            )
            biases = (gate_bias, up_bias)
        down = weights.take(f"{mlp}.down_proj.weight", shape.width, shape.inner)
        down_bias = weights.take(f"{mlp}.down_proj.bias", shape.width) if shape.inner_bias else None
        return _Layer(
            qkv=self._qkv(name),
            attention_out=self._attention_out(f"{name}.self_attn.o_proj"),
            gated=self._make.gated(gate, up, biases, shape.activation),
            down=self._make(down, down_bias),
            head_scale=self._head_scale(f"{name}.self_attn") if shape.head_norms else None,
        )

    def head(self, words: torch.Tensor) -> Linear:
        """Logits of the last hidden state, the last norm's weight included."""
        norm = self._norm("model.norm.weight")
        if self._shape.tied:
            weight = (words.float() * norm).to(words.dtype)
        else:
            weight = self._scaled("lm_head.weight", norm, self._shape.vocabulary)
        return unquantized(weight)

    def _norm(self, name: str) -> torch.Tensor:
        return self._weights.take(name, self._shape.width, dtype=torch.float32)

    def _scaled(self, name: str, norm: torch.Tensor, outputs: int) -> torch.Tensor:
        """A projection [outputs, D] that includes the weight of the norm in front of it."""
        weight = self._weights.take(name, outputs, self._shape.width, dtype=torch.float32)
        return weight.mul_(norm).to(self._dtype)

    def _qkv(self, name: str) -> Linear:
        shape = self._shape
        norm = self._norm(f"{name}.input_layernorm.weight")
        weights: list[torch.Tensor] = []
        biases: list[torch.Tensor] = []
        for part, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
            layer, outputs = f"{name}.self_attn.{part}_proj", heads * shape.head_width
            weights.append(self._rows(part, self._scaled(f"{layer}.weight", norm, outputs)))
            if shape.qkv_bias:
                biases.append(self._rows(part, self._weights.take(f"{layer}.bias", outputs)))
        return self._make(torch.cat(weights), torch.cat(biases) if biases else None)

    def _rows(self, part: str, rows: torch.Tensor) -> torch.Tensor:
        """Outputs of q, k or v in our order."""
        shape = self._shape
        if part == "v":
            return rows
        rows = pairs_together(rows, shape.head_width)
        if part == "k":
            return rows
        heads = rows.view(shape.kv_heads, -1, shape.head_width, *rows.shape[1:])
        return heads.transpose(0, 1).reshape(rows.shape)

    def _attention_out(self, name: str) -> Linear:
        shape = self._shape
        inputs = shape.heads * shape.head_width
        weight = self._weights.take(f"{name}.weight", shape.width, inputs)
        heads = weight.view(shape.width, shape.kv_heads, -1, shape.head_width)
        weight = heads.transpose(1, 2).reshape(shape.width, inputs)
        bias = self._weights.take(f"{name}.bias", shape.width) if shape.out_bias else None
        return self._make(weight, bias)

    def _head_scale(self, name: str) -> torch.Tensor:
        """Weights of Qwen3's norms over each head: [G H + H, d], queries first."""
        shape = self._shape
        q, k = (
            pairs_together(
                self._weights.take(f"{name}.{part}_norm.weight", shape.head_width),
                shape.head_width,
            )
            for part in ("q", "k")
        )
        return torch.cat((q.expand(shape.heads, -1), k.expand(shape.kv_heads, -1)))


def read_shape(folder: GenerationFolder) -> LlamaShape:
    """What config.json says; raises ModelLoadError where it says what cannot be."""
    config = folder.config
    width, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    kv_heads = size(config, "num_key_value_heads", default=heads)
    head_width = size(config, "head_dim", default=max(width // heads, 1))
    if heads % kv_heads or head_width % 2:
        raise ModelLoadError(
            f"{folder.path / 'config.json'}: {heads} heads of width {head_width} cannot share "
            f"{kv_heads} key heads; download it again"
        )
    attention_bias = bool(config.get("attention_bias", False))
    return LlamaShape(
        vocabulary=size(config, "vocab_size"),
        width=width,
        layers=size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        inner=size(config, "intermediate_size"),
        context=_context(folder),
        epsilon=number(config, "rms_norm_eps", 1e-6),
        activation=activation(str(config.get("hidden_act", "silu"))),
        qkv_bias=folder.model_type == "qwen2" or attention_bias,
        out_bias=attention_bias and folder.model_type != "qwen2",
        inner_bias=bool(config.get("mlp_bias", False)),
        head_norms=folder.model_type == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _context(folder: GenerationFolder) -> int:
    """Positions at which attention over everything is what the model does."""
    config: Mapping[str, Any] = folder.config
    slides = folder.model_type == "mistral" or bool(config.get("use_sliding_window", False))
    window = config.get("sliding_window")
    if not slides or window is None:
        return folder.context
    # a sliding window changes nothing up to its own width
    return min(folder.context, size(config, "sliding_window"))
