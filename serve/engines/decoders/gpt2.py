"""GPT-2: learned positions, layer norms, weights stored as [inputs, outputs].

T rows of a step, D width of the model, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ironcliw.errors import ModelLoadError
from serve.engines.decoders.attention import Attention
from serve.engines.decoders.base import Placement, TorchDecoder
from serve.engines.decoders.config import activation, number, size
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.kv_cache import KvShape
from serve.engines.decoders.projections import Activation, MakeLinear, Projection, unquantized
from serve.engines.decoders.ragged import Plan
from serve.engines.linear import Linear
from serve.engines.weights import Weights

MODEL_TYPES = ("gpt2",)
_SWITCHES = ("scale_attn_by_inverse_layer_idx", "add_cross_attention")


@dataclass(frozen=True, slots=True)
class Gpt2Shape:
    """What config.json says of the network."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    context: int
    epsilon: float
    activation: Activation
    tied: bool


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: _Norm
    qkv: Linear
    attention_out: Linear
    inner_norm: _Norm
    up: Projection
    down: Linear


class Gpt2Decoder(TorchDecoder):
    """A `Decoder` of GPT-2 models.

    Args:
        folder: The model's folder, read and checked.
        placement: Where and how to compute.

    Raises:
        ModelLoadError: the weights do not fit config.json, or it asks for what is not supported.
    """

    def __init__(self, folder: GenerationFolder, placement: Placement) -> None:
        shape = read_shape(folder)
        self._width, self._epsilon = shape.width, shape.epsilon
        kv_shape = KvShape(shape.layers, shape.heads, shape.width // shape.heads)
        super().__init__(placement, shape.vocabulary, shape.context, kv_shape)
        self._attention = Attention(shape.heads, shape.heads, shape.width // shape.heads)
        self._layers: list[_Layer] = []
        with (
            torch.inference_mode(),
            Weights(
                folder.tensors, "wte.weight", placement.dtype, placement.device, placement.counter
            ) as weights,
        ):
            self._words = weights.take("wte.weight", shape.vocabulary, shape.width)
            self._places = weights.take("wpe.weight", shape.context, shape.width)
            loader = _LayerLoader(weights, shape.width, shape.inner, placement.make_linear)
            self._layers = [loader.layer(index, shape.activation) for index in range(shape.layers)]
            self._last_norm = loader.norm("ln_f")
        self._head: Linear | None = unquantized(
            self._words if shape.tied else _untied_head(folder, placement, shape)
        )

    def _run(self, plan: Plan, rows: int) -> torch.Tensor:
        width, cache, count = self._width, self._cache, len(plan.tokens)
        places = cache.places(plan.slots, plan.positions)
        calls = self._attention.prepare(plan, cache)
        hidden = F.embedding(self._padded(plan.tokens, rows), self._words)
        hidden += F.embedding(self._padded(plan.positions, rows), self._places)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._normed(hidden, layer.norm))
            cache.write(places[index], qkv[:count, width:])
            context = self._attention(qkv[:, :width], calls, index)
            hidden = layer.attention_out.add(context, hidden)
            inner = layer.up(self._normed(hidden, layer.inner_norm))
            hidden = layer.down.add(inner, hidden)
        assert self._head is not None
        return self._head(self._normed(self._wanted(hidden, plan), self._last_norm))

    def _normed(self, hidden: torch.Tensor, norm: _Norm) -> torch.Tensor:
        return F.layer_norm(hidden, (self._width,), norm.weight, norm.bias, self._epsilon)

    def _weight_bytes(self) -> int:
        held = self._words.nbytes + self._places.nbytes
        held += 0 if self._head is None else self._head.resident_bytes
        norms = [self._last_norm]
        for layer in self._layers:
            parts = (layer.qkv, layer.attention_out, layer.up, layer.down)
            held += sum(part.resident_bytes for part in parts)
            norms += [layer.norm, layer.inner_norm]
        return held + sum(norm.weight.nbytes + norm.bias.nbytes for norm in norms)

    def _drop(self) -> None:
        self._layers = []
        self._head = None
        self._words = self._places = torch.empty(0)
        self._last_norm = _Norm(self._words, self._words)


class _LayerLoader:
    """Takes one layer after the other."""

    def __init__(self, weights: Weights, width: int, inner: int, make: MakeLinear) -> None:
        self._weights = weights
        self._width = width
        self._inner = inner
        self._make = make

    def layer(self, index: int, function: Activation) -> _Layer:
        name, width, inner = f"h.{index}", self._width, self._inner
        return _Layer(
            norm=self.norm(f"{name}.ln_1"),
            qkv=self._make(*self._matrix(f"{name}.attn.c_attn", width, 3 * width)),
            attention_out=self._make(*self._matrix(f"{name}.attn.c_proj", width, width)),
            inner_norm=self.norm(f"{name}.ln_2"),
            up=self._make.activated(*self._matrix(f"{name}.mlp.c_fc", width, inner), function),
            down=self._make(*self._matrix(f"{name}.mlp.c_proj", inner, width)),
        )

    def norm(self, name: str) -> _Norm:
        weight, bias = (
            self._weights.take(f"{name}.{part}", self._width) for part in ("weight", "bias")
        )
        return _Norm(weight, bias)

    def _matrix(self, name: str, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self._weights.take(f"{name}.weight", inputs, outputs)
        return weight.t().contiguous(), self._weights.take(f"{name}.bias", outputs)


def _untied_head(folder: GenerationFolder, placement: Placement, shape: Gpt2Shape) -> torch.Tensor:
    # a file of its own prefix: the head stands outside "transformer."
    with Weights(
        folder.tensors, "lm_head.weight", placement.dtype, placement.device, placement.counter
    ) as weights:
        return weights.take("lm_head.weight", shape.vocabulary, shape.width)


def read_shape(folder: GenerationFolder) -> Gpt2Shape:
    """What config.json says; raises ModelLoadError where it says what cannot be."""
    config = folder.config
    asked = [name for name in _SWITCHES if config.get(name)]
    if asked or config.get("scale_attn_weights") is False:
        raise ModelLoadError(
            f"{folder.path / 'config.json'} changes GPT-2's attention "
            f"({', '.join(asked) or 'scale_attn_weights'}), which is not supported"
        )
    width, heads = size(config, "n_embd", "hidden_size"), size(config, "n_head")
    if width % heads:
        raise ModelLoadError(
            f"{folder.path / 'config.json'}: width {width} cannot be split into {heads} heads"
        )
    return Gpt2Shape(
        vocabulary=size(config, "vocab_size"),
        width=width,
        layers=size(config, "n_layer"),
        heads=heads,
        inner=size(config, "n_inner", default=4 * width),
        context=folder.context,
        epsilon=number(config, "layer_norm_epsilon", 1e-5),
        activation=activation(str(config.get("activation_function", "gelu_new"))),
        tied=bool(config.get("tie_word_embeddings", True)),
    )
