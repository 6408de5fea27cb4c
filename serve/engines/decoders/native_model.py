"""Which tensors of a checkpoint are which parts of the fused decoder step (`native_ops.decoder`).

Covered: the Llama family (Llama, SmolLM2, Mistral, Qwen2, Qwen3) and GPT-2. D width of the model,
H query heads, K key heads, d width of a head, F inner width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from native_ops.decoder_plan import DecoderShape
from serve.engines.decoders import gpt2, llama
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.rotary import frequencies

MAX_HEAD_WIDTH = 256
"""Of the compiled kernels (csrc/kernels/cached_attention.h, kMaxHeadWidth)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a checkpoint's tensor, by the name that a Hugging Face folder gives it.

    Attributes:
        name: Without what the checkpoint writes in front of all names.
        first: Of the rows.
        total: Of the tensor; 0 where the part is all of it.
        transposed: Whether a folder holds the tensor as [inputs, outputs].
    """

    name: str
    first: int = 0
    total: int = 0
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class NativeModel:
    """A model as the fused step sees it.

    Attributes:
        shape: Of the network.
        anchor: A tensor's name that tells what stands in front of all names.
        matrices: Where each matrix of the plan comes from, by its name there.
        vectors: Where each vector comes from.
        tied: Whether the head is the embedding.
        frequencies: float32 [d / 2] of the rotary embedding; None: learned positions.
    """

    shape: DecoderShape
    anchor: str
    matrices: dict[str, Rows] = field(default_factory=dict)
    vectors: dict[str, Rows] = field(default_factory=dict)
    tied: bool = False
    frequencies: torch.Tensor | None = None

    def size(self, part: str) -> tuple[int, int]:
        """Outputs and inputs of a matrix, such as `layers.0.query`."""
        return self.shape.matrix_size(part.rpartition(".")[2])

    def add(self, part: str, source: Rows, *, bias: bool = False) -> None:
        """A matrix, and its bias where it has one."""
        self.matrices[part] = source
        if bias:
            name = source.name.removesuffix("weight") + "bias"
            self.vectors[f"{part}.bias"] = Rows(name, source.first, source.total)

    def add_norm(self, part: str, name: str, *, bias: bool = False) -> None:
        """A norm's weight, and its bias where it has one."""
        for ending in ("weight", "bias") if bias else ("weight",):
            self.vectors[f"{part}.{ending}"] = Rows(f"{name}.{ending}")


def native_model(folder: GenerationFolder) -> NativeModel | None:
    """How the fused step computes a model; None where it cannot.

    Raises:
        ModelLoadError: config.json contradicts itself, or asks for what no decoder here supports.
    """
    make = _MAKERS.get(folder.model_type)
    model = None if make is None else make(folder)
    return None if model is None or model.shape.head_width > MAX_HEAD_WIDTH else model


def _llama_model(folder: GenerationFolder) -> NativeModel:
    given = llama.read_shape(folder)
    model = NativeModel(
        DecoderShape(
            width=given.width,
            heads=given.heads,
            kv_heads=given.kv_heads,
            head_width=given.head_width,
            inner=given.inner,
            layers=given.layers,
            vocabulary=given.vocabulary,
            context=given.context,
            epsilon=given.epsilon,
            activation=given.activation,
        ),
        anchor="model.embed_tokens.weight",
        tied=given.tied,
        frequencies=frequencies(folder.config, given.head_width),
    )
    model.add("embedding", Rows(model.anchor))
    model.add_norm("norm", "model.norm")
    if not given.tied:
        model.add("head", Rows("lm_head.weight"))
    for index in range(given.layers):
        _add_llama_layer(model, given, f"layers.{index}", f"model.layers.{index}")
    return model


def _add_llama_layer(model: NativeModel, given: llama.LlamaShape, part: str, name: str) -> None:
    attention, mlp = f"{name}.self_attn", f"{name}.mlp"
    model.add_norm(f"{part}.attention_norm", f"{name}.input_layernorm")
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        source = Rows(f"{attention}.{theirs}_proj.weight")
        model.add(f"{part}.{ours}", source, bias=given.qkv_bias)
        if given.head_norms and ours != "value":
            model.add_norm(f"{part}.{ours}_norm", f"{attention}.{theirs}_norm")
    model.add(f"{part}.output", Rows(f"{attention}.o_proj.weight"), bias=given.out_bias)
    model.add_norm(f"{part}.mlp_norm", f"{name}.post_attention_layernorm")
    for ours in ("gate", "up", "down"):
        model.add(f"{part}.{ours}", Rows(f"{mlp}.{ours}_proj.weight"), bias=given.inner_bias)


def _gpt2_model(folder: GenerationFolder) -> NativeModel:
    given = gpt2.read_shape(folder)
    model = NativeModel(
        DecoderShape(
            width=given.width,
            heads=given.heads,
            kv_heads=given.heads,
            head_width=given.width // given.heads,
            inner=given.inner,
            layers=given.layers,
            vocabulary=given.vocabulary,
            context=given.context,
            epsilon=given.epsilon,
            normalization="layer",
            activation=given.activation,
            gated=False,
        ),
        anchor="wte.weight",
        tied=given.tied,
    )
    model.add("embedding", Rows(model.anchor))
    # a cache that holds fewer positions needs only the first of them
    model.add("positions", Rows("wpe.weight", total=given.context))
    model.add_norm("norm", "ln_f", bias=True)
    if not given.tied:
        model.add("head", Rows("lm_head.weight"))
    for index in range(given.layers):
        _add_gpt2_layer(model, given.width, f"layers.{index}", f"h.{index}")
    return model


def _add_gpt2_layer(model: NativeModel, width: int, part: str, name: str) -> None:
    model.add_norm(f"{part}.attention_norm", f"{name}.ln_1", bias=True)
    for number, ours in enumerate(("query", "key", "value")):
        rows = Rows(f"{name}.attn.c_attn.weight", number * width, 3 * width, transposed=True)
        model.add(f"{part}.{ours}", rows, bias=True)
    model.add_norm(f"{part}.mlp_norm", f"{name}.ln_2", bias=True)
    for ours, theirs in (("output", "attn.c_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj")):
        model.add(f"{part}.{ours}", Rows(f"{name}.{theirs}.weight", transposed=True), bias=True)


_MAKERS: Mapping[str, Callable[[GenerationFolder], NativeModel]] = {
    **dict.fromkeys(llama.MODEL_TYPES, _llama_model),
    **dict.fromkeys(gpt2.MODEL_TYPES, _gpt2_model),
}
