"""A transformers configuration as the metadata of a GGUF file: `gguf_architectures`, the way back.

Pure. Values are as `GgufFile.metadata` has them, so that the reader's own functions can be asked
what they make of them before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import UnsupportedError

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gpt2": "gpt2",
}
"""`model_type` of a configuration to the architecture's name in a GGUF file."""


def architecture_of(config: Mapping[str, Any], source: str) -> str:
    """What llama.cpp calls the model's architecture.

    Args:
        config: transformers' configuration, with its defaults.
        source: For messages.

    Raises:
        UnsupportedError: a GGUF file cannot hold the model, or our reader cannot read it from one.
    """
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise UnsupportedError(
            f"{source} is a {kind} model; as GGUF are written {', '.join(sorted(ARCHITECTURES))}: "
            "export it with --format safetensors"
        )
    # layer_types is made from these two, and present where nothing slides as well
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise UnsupportedError(
            f"{source} attends within a sliding window of {config['sliding_window']} tokens, which "
            "is not written as GGUF; export it with --format safetensors"
        )
    return ARCHITECTURES[kind]


def architecture_metadata(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Keys that say what the model is, but for its texts.

    Args:
        config: transformers' configuration, with its defaults.
        source: For messages.

    Raises:
        UnsupportedError: as `architecture_of`.
    """
    name = architecture_of(config, source)
    sizes = _gpt2(config) if name == "gpt2" else _llama(config, source)
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in sizes.items()}


def rope_factors(config: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
    """Llama 3.1's divisors of the rotary frequencies, float32 [head_dim / 2]; None: it has none."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3":
        return None
    # _compute_llama3_parameters in transformers/modeling_rope_utils.py
    head_dim = _head_dim(config)
    waves = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = (rope["original_max_position_embeddings"] / waves - low) / (high - low)
    smooth = np.clip(smooth, 0, 1)
    factors: npt.NDArray[np.float32] = (1 / ((1 - smooth) / rope["factor"] + smooth)).astype("f4")
    return factors


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _llama(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    head_dim = _head_dim(config)
    rope = config["rope_parameters"]
    return {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config["vocab_size"],
        **_scaling(rope, source),
    }


def _scaling(rope: Mapping[str, Any], source: str) -> dict[str, Any]:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return {}  # llama3 is a tensor
    found: dict[str, Any] = {
        "rope.scaling.type": kind,
        "rope.scaling.factor": float(rope["factor"]),
    }
    if kind == "linear":
        return found
    if kind == "yarn":
        window = rope["original_max_position_embeddings"]
        return found | {"rope.scaling.original_context_length": window}
    raise UnsupportedError(
        f"{source} scales its rotary embedding by {kind!r}; as GGUF are written default, linear, "
        "llama3 and yarn: export it with --format safetensors"
    )


def _gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "context_length": config["n_positions"],
        "embedding_length": config["n_embd"],
        "block_count": config["n_layer"],
        "feed_forward_length": config.get("n_inner") or 4 * config["n_embd"],
        "attention.head_count": config["n_head"],
        "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
    }
