"""Small random models written as GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TensorNameMap

CHARACTERS = [chr(code) for code in range(33, 127)]
TOKENS = [*CHARACTERS, "ab", "<|im_start|>", "<|im_end|>"]
START, END = len(TOKENS) - 2, len(TOKENS) - 1
SIZES = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SCALES = {
    "Q4_K": {0: 2e-4, 2: 1e-3},
    "Q5_K": {0: 1e-4, 2: 1e-3},
    "Q6_K": {208: 5e-5},
}
"""Kinds that the gguf package cannot make: where the scales stand in a block, and small values."""

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False, "rope_theta": 5000.0},
    "llama-tied": {"tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    "llama-biased": {"attention_bias": True},
    "llama-3.1": {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "gpt2": {},
}


def random_model(name: str, **sizes: Any) -> Any:
    """A transformers model of the name's kind, smaller than any real one."""
    import transformers as t

    torch.manual_seed(0)
    kind = name.partition("-")[0]
    if kind == "gpt2":
        small = {"vocab_size": len(TOKENS), "n_embd": 64, "n_layer": 2, "n_head": 4, **sizes}
        model = t.GPT2LMHeadModel(t.GPT2Config(**small, n_positions=128))
    else:
        title = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
        config = getattr(t, f"{title}Config")(**SIZES | MODELS[name] | sizes)
        model = getattr(t, f"{title}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.train(False)
    return model


def permuted(tensor: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    shape = tensor.shape
    halves = tensor.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape)


def write_gguf(model: Any, name: str, path: Path, kind: str = "F32") -> None:
    """Write a transformers model as llama.cpp's converter does."""
    architecture = name.partition("-")[0]
    writer = GGUFWriter(path, architecture)
    _add_sizes(writer, model.config, architecture)
    _add_tokenizer(writer)
    names = _names(architecture, model.config.num_hidden_layers)
    for full, tensor in model.state_dict().items():
        if full == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        data = tensor.numpy()
        if architecture == "llama" and (".q_proj." in full or ".k_proj." in full):
            data = permuted(data, 4 if ".q_proj." in full else 2)
        if architecture == "gpt2" and ".c_" in full and data.ndim == 2:
            data = data.T
        target = str(names.get_name(full, try_suffixes=(".weight", ".bias")))
        stored = kind if data.ndim == 2 else "F32"
        blocks = _blocks(np.ascontiguousarray(data), stored)
        plain = stored in ("F32", "F16")
        raw = None if plain else GGMLQuantizationType[stored]
        writer.add_tensor(target, blocks, raw_dtype=raw)
    if name == "llama-3.1":
        inverse = 500000.0 ** -(np.arange(0, 16, 2) / 16)
        writer.add_tensor(
            "rope_freqs.weight",
            (inverse / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _blocks(data: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """The numbers in blocks of a kind; random blocks of that size where nothing here makes them."""
    if kind not in SCALES:
        return gguf.quants.quantize(data, GGMLQuantizationType[kind])
    elements, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rows, count = data.shape[0], data.shape[1] // elements
    generator = np.random.default_rng(data.size)
    blocks = generator.integers(0, 256, (rows, count, nbytes), dtype=np.uint8)
    for at, scale in SCALES[kind].items():
        half = np.full((rows, count, 1), scale, np.float16).view(np.uint8)
        blocks[:, :, at : at + 2] = half.reshape(rows, count, 2)
    return blocks.reshape(rows, -1)


def _names(architecture: str, layers: int) -> TensorNameMap:
    kinds = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(kinds[architecture], layers)


def _add_sizes(writer: GGUFWriter, config: Any, architecture: str) -> None:
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(2)
    writer.add_head_count(4)
    if architecture == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if architecture == "qwen3":
        writer.add_key_length(32)
        writer.add_value_length(32)


def _add_tokenizer(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(CHARACTERS) + 1) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(START)
    writer.add_eos_token_id(START)
    writer.add_chat_template("{{ messages[0]['content'] }}<|im_end|>")


def write_sample(path: Path, name: str = "llama-tied", kind: str = "F32", **sizes: Any) -> Any:
    """A random model, written; and the model."""
    model = random_model(name, **sizes)
    write_gguf(model, name, path, kind)
    return model
