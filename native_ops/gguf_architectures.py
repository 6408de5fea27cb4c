"""What a GGUF file's architecture is called, sized and laid out in a Hugging Face folder.

Covered: llama, qwen2, qwen3 and gpt2, dense and with full rotary embeddings. Names from llama.cpp's
gguf-py/gguf/tensor_mapping.py and the transformers modules of the same models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ironcliw.errors import ModelLoadError
from native_ops.gguf import GgufFile
from native_ops.gguf_names import (
    GPT2,
    GPT2_OUTER,
    LLAMA,
    LLAMA_OUTER,
    QK_NORMS,
    QKV_BIASES,
    ROPE_FACTORS,
)


@dataclass(frozen=True, slots=True)
class TargetTensor:
    """A tensor of the folder and how it comes from the file.

    Args:
        name: As transformers writes it.
        source: Its name in the GGUF file.
        change: "unpermute" undoes llama.cpp's interleaving of the rows of each attention head (its
            rotary embedding turns neighbours, transformers' turns halves); "transpose" is for
            GPT-2, whose layers transformers stores as [K, N].
        heads: How many heads its rows belong to; for "unpermute".
    """

    name: str
    source: str
    change: Literal["none", "unpermute", "transpose"] = "none"
    heads: int = 1


def model_config(file: GgufFile) -> dict[str, Any]:
    """The content of config.json, without what only the tokenizer knows.

    Raises:
        ModelLoadError: the architecture or a feature of it is not supported, or the metadata lacks
            a part or contradicts itself.
    """
    name = _architecture(file)
    config = _CONFIGS[name](file)
    return config | {
        "vocab_size": _tensor_shape(file, "token_embd.weight")[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def model_tensors(file: GgufFile) -> list[TargetTensor]:
    """Every tensor of the folder, in the file's order.

    Raises:
        ModelLoadError: the file lacks one, or has one that the architecture does not use.
    """
    name = _architecture(file)
    targets = {target.source: target for target in _targets(file, name)}
    absent = [source for source in targets if source not in file.tensors]
    unused = [source for source in file.tensors if source not in targets | {ROPE_FACTORS: None}]
    if absent or unused:
        found = f"lacks {absent[0]!r}" if absent else f"has {unused[0]!r}, which is not supported"
        raise ModelLoadError(
            f"{file.path}: a {name} model of {_layers(file, name)} layers, which {found} "
            f"({len(absent)} tensors absent, {len(unused)} not supported); download it again, or "
            "use the model's Hugging Face folder"
        )
    return [targets[source] for source in file.tensors if source in targets]


def _architecture(file: GgufFile) -> str:
    name = file.text("general.architecture")
    if name not in _CONFIGS:
        raise ModelLoadError(
            f"{file.path}: architecture {name!r} is not supported; supported are "
            f"{', '.join(_CONFIGS)}: use the model's Hugging Face folder, or the llamacpp engine"
        )
    return name


def _layers(file: GgufFile, name: str) -> int:
    count = _positive(file, f"{name}.block_count")
    if count > len(file.tensors):
        raise ModelLoadError(
            f"{file.path}: {name}.block_count is {count}, the file has only {len(file.tensors)} "
            "tensors; download it again"
        )
    return count


def _positive(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.integer(key, default)
    if value < 1:
        raise ModelLoadError(f"{file.path}: {key} is {value}, not above 0; download it again")
    return value


def _tensor_shape(file: GgufFile, name: str) -> tuple[int, ...]:
    if name not in file.tensors:
        raise ModelLoadError(f"{file.path} lacks the tensor {name!r}; download it again")
    return file.tensors[name].shape


def _targets(file: GgufFile, name: str) -> Iterator[TargetTensor]:
    prefix, outer = (
        ("transformer.h", GPT2_OUTER) if name == "gpt2" else ("model.layers", LLAMA_OUTER)
    )
    for source, target in outer.items():
        yield TargetTensor(target, source)
    if "output.weight" in file.tensors:
        yield TargetTensor("lm_head.weight", "output.weight")
    parts = _layer_parts(file, name)
    for layer in range(_layers(file, name)):
        for source, target in parts.items():
            full = f"blk.{layer}.{source}"
            yield _changed(file, name, TargetTensor(f"{prefix}.{layer}.{target}", full), source)


def _layer_parts(file: GgufFile, name: str) -> Mapping[str, str]:
    if name == "gpt2":
        return GPT2
    if name == "qwen2":
        return LLAMA | QKV_BIASES
    if name == "qwen3":
        return LLAMA | QK_NORMS
    if _has_attention_bias(file):
        return LLAMA | QKV_BIASES | {"attn_output.bias": "self_attn.o_proj.bias"}
    return LLAMA


def _changed(file: GgufFile, name: str, target: TargetTensor, part: str) -> TargetTensor:
    if name == "gpt2" and len(_shape_or_empty(file, target.source)) == 2:
        return TargetTensor(target.name, target.source, "transpose")
    layer_part = part.partition(".")[0]
    if name == "llama" and layer_part in ("attn_q", "attn_k"):
        heads = _positive(file, "llama.attention.head_count")
        if layer_part == "attn_k":
            heads = _positive(file, "llama.attention.head_count_kv", heads)
        return TargetTensor(target.name, target.source, "unpermute", heads)
    return target


def _shape_or_empty(file: GgufFile, name: str) -> tuple[int, ...]:
    return file.tensors[name].shape if name in file.tensors else ()


def _has_attention_bias(file: GgufFile) -> bool:
    return "blk.0.attn_q.bias" in file.tensors


def _float32(value: float) -> float:
    """The shortest number that is the same in float32: 1e-05 instead of 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _llama_config(file: GgufFile, name: str = "llama") -> dict[str, Any]:
    hidden = _positive(file, f"{name}.embedding_length")
    heads = _positive(file, f"{name}.attention.head_count")
    head_dim = _positive(file, f"{name}.attention.key_length", hidden // heads)
    rotary = file.integer(f"{name}.rope.dimension_count", head_dim)
    values = file.integer(f"{name}.attention.value_length", head_dim)
    if rotary != head_dim or values != head_dim:
        raise ModelLoadError(
            f"{file.path}: attention heads of {head_dim} numbers with {values} values and a rotary "
            f"embedding over {rotary} are not supported; all three must be equal"
        )
    theta = _float32(file.number(f"{name}.rope.freq_base", 10000.0))
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": name,
        "hidden_size": hidden,
        "intermediate_size": _positive(file, f"{name}.feed_forward_length"),
        "num_hidden_layers": _layers(file, name),
        "num_attention_heads": heads,
        "num_key_value_heads": _positive(file, f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": _positive(file, f"{name}.context_length"),
        "rms_norm_eps": _float32(file.number(f"{name}.attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta} | _rope(file, name, theta, head_dim),
    }
    if name == "llama":
        return config | {"attention_bias": _has_attention_bias(file), "mlp_bias": False}
    return config | {"use_sliding_window": False}


def _qwen2_config(file: GgufFile) -> dict[str, Any]:
    return _llama_config(file, "qwen2") | {"architectures": ["Qwen2ForCausalLM"]}


def _qwen3_config(file: GgufFile) -> dict[str, Any]:
    biases = {"attention_bias": False}
    return _llama_config(file, "qwen3") | biases | {"architectures": ["Qwen3ForCausalLM"]}


def _gpt2_config(file: GgufFile) -> dict[str, Any]:
    hidden = _positive(file, "gpt2.embedding_length")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": hidden,
        "n_layer": _layers(file, "gpt2"),
        "n_head": _positive(file, "gpt2.attention.head_count"),
        "n_positions": _tensor_shape(file, "position_embd.weight")[0],
        "n_inner": _positive(file, "gpt2.feed_forward_length", 4 * hidden),
        "layer_norm_epsilon": _float32(file.number("gpt2.attention.layer_norm_epsilon")),
        "activation_function": "gelu_new",
    }


_CONFIGS: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "llama": _llama_config,
    "qwen2": _qwen2_config,
    "qwen3": _qwen3_config,
    "gpt2": _gpt2_config,
}


def _rope(file: GgufFile, name: str, theta: float, head_dim: int) -> dict[str, Any]:
    """How positions beyond the trained window are reached, as transformers describes it."""
    if ROPE_FACTORS in file.tensors:
        return _llama3_rope(file, theta, head_dim)
    kind = file.text(f"{name}.rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default"}
    factor = _float32(file.number(f"{name}.rope.scaling.factor"))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        window = _positive(file, f"{name}.rope.scaling.original_context_length")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": window,
        }
    raise ModelLoadError(
        f"{file.path}: {name}.rope.scaling.type {kind!r} is not supported; supported are none, "
        "linear and yarn"
    )


def _llama3_rope(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3.1 and later: the file has each frequency's divisor, the config the rule for them."""
    stored = file.dequantize(ROPE_FACTORS).astype(np.float64).ravel()
    factor, low, high, window = _float32(stored.max()), 1.0, 4.0, 8192
    if len(stored) == head_dim // 2 and math.isfinite(factor) and factor > 0:
        # _compute_llama3_parameters in transformers/modeling_rope_utils.py
        waves = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
        smooth = np.clip((window / waves - low) / (high - low), 0, 1)
        if np.allclose(stored, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": window,
            }
    raise ModelLoadError(
        f"{file.path}: the factors in {ROPE_FACTORS!r} are not those of Llama 3.1 or later; use "
        "the model's Hugging Face folder instead"
    )
