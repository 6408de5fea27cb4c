"""A model in a Hugging Face folder as one GGUF file, which our engines and llama.cpp read.

The way back of `gguf_conversion`, for the architectures that it reads. Before anything is written
the reader is asked what it makes of the metadata: a configuration that a GGUF file cannot say is
refused, not bent. Tensors are read, quantised and written one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw import __version__
from ironcliw.errors import ModelLoadError, UnsupportedError
from native_ops.gguf_export_config import architecture_metadata, rope_factors
from native_ops.gguf_export_plan import (
    BLOCKS,
    GgufQuantization,
    PlannedTensor,
    StoredTensor,
    plan_tensors,
)
from native_ops.gguf_export_tokenizer import tokenizer_metadata
from native_ops.gguf_names import ROPE_FACTORS
from native_ops.gguf_types import TYPE_NUMBERS

_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "bf16": 32}
"""enum llama_ftype."""
_QUANTIZATION_VERSION = 2
_NOT_WEIGHTS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""Ends of the names of buffers that older checkpoints store."""


def export_gguf(folder: Path, file: Path, quantization: GgufQuantization, *, name: str) -> None:
    """Write a folder's model as a GGUF file.

    Matrices are quantised; norms and biases stay in float32. Embedding and head have 8 bits where
    the others have 4, and a matrix whose rows no blocks can fill is float16. `q4_1` is rounded as
    our engines round with `quantization = "4bit"`.

    Args:
        folder: With config.json, safetensors and tokenizer.json.
        file: To be written; what is there is overwritten. It is not whole before the call returns.
        quantization: Of the matrices.
        name: That the file gives the model.

    Raises:
        UnsupportedError: a GGUF file cannot hold the model or its tokenizer.
        ModelLoadError: the folder's files are absent or damaged, or hold numbers that are none.
        OSError: the file cannot be written.
    """
    config = _config(folder)
    described = architecture_metadata(config, str(folder))
    with ExitStack() as stack:
        stored = _stored(folder, stack)
        embedding = stored.get("model.embed_tokens.weight") or stored["transformer.wte.weight"]
        metadata = {
            **described,
            "general.name": name,
            "general.type": "model",
            "general.quantized_by": f"ironcliw {__version__}",
            "general.file_type": _FILE_TYPES[quantization],
            "general.quantization_version": _QUANTIZATION_VERSION,
            **tokenizer_metadata(folder, embedding.shape[0]),
        }
        planned = plan_tensors(file, metadata, config, stored, quantization)
        _write(file, metadata, planned, stored, rope_factors(config))


def check_architecture(folder: Path) -> None:
    """Refuse what no GGUF file can hold, by the model's configuration alone.

    Args:
        folder: With config.json.

    Raises:
        UnsupportedError: a GGUF file cannot hold the model.
    """
    architecture_metadata(_config(folder), str(folder))


def _config(folder: Path) -> dict[str, Any]:
    """transformers' configuration, with its defaults."""
    import transformers

    found: dict[str, Any] = transformers.AutoConfig.from_pretrained(folder).to_dict()
    return found


def _stored(folder: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    """Every weight of the folder by its full name, unread."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, StoredTensor] = {}
    files = sorted(folder.glob("*.safetensors"))
    try:
        for path in files:
            opened: Any = stack.enter_context(safe_open(path, framework="pt"))
            for key in opened.keys():  # no mapping
                if not key.endswith(_NOT_WEIGHTS):
                    shape = tuple(opened.get_slice(key).get_shape())
                    found[_full_name(key)] = StoredTensor(shape, _taker(opened, key, path))
    except SafetensorError as error:
        raise ModelLoadError(f"{folder}: {error}; copy the model folder again") from error
    if not {"model.embed_tokens.weight", "transformer.wte.weight"} & found.keys():
        raise ModelLoadError(
            f"{folder} has no embedding in its *.safetensors ({len(files)} files); give the folder "
            "of a causal language model"
        )
    return found


def _full_name(key: str) -> str:
    """GPT-2's published weights lack the prefix that transformers gives them."""
    bare = key.startswith(("wte.", "wpe.", "h.", "ln_f."))
    return f"transformer.{key}" if bare else key


def _taker(opened: Any, key: str, path: Path) -> Callable[[], npt.NDArray[np.float32]]:
    def take() -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = opened.get_tensor(key).float().numpy()
        if not np.isfinite(values).all():
            raise ModelLoadError(f"{path}: tensor {key!r} holds infinite numbers or NaN")
        return values

    return take


def _write(
    file: Path,
    metadata: Mapping[str, Any],
    planned: list[PlannedTensor],
    stored: Mapping[str, StoredTensor],
    factors: npt.NDArray[np.float32] | None,
) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(file, metadata["general.architecture"])
    try:
        for key, value in metadata.items():
            _add(writer, key, value)
        if factors is not None:
            writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
        for each in planned:
            block = BLOCKS[each.kind]
            nbytes = math.prod(each.shape) // block.elements * block.nbytes
            kind = GGMLQuantizationType(TYPE_NUMBERS[each.kind])
            # of raw bytes the writer would take the shape to be theirs
            writer.add_tensor_info(
                each.target.source, each.shape, np.dtype(np.float32), nbytes, raw_dtype=kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for each in planned:
            writer.write_tensor_data(_blocks(each, stored[each.target.name].take()))
        writer.flush()
    finally:
        writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    if key == "general.architecture":
        return  # the writer's own
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else value)


def _blocks(each: PlannedTensor, values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """The bytes of a tensor as the file has them."""
    if each.target.change == "transpose":
        values = values.T
    elif each.target.change == "unpermute":
        # LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py
        heads = each.target.heads
        halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    values = np.ascontiguousarray(values)
    if each.kind == "F32":
        return values
    if each.kind == "F16":
        return _half(each, values)
    if each.kind == "Q4_1":
        import torch

        from native_ops.packed_linear import quantize_rows_q4

        return quantize_rows_q4(torch.from_numpy(values)).numpy()
    from gguf import GGMLQuantizationType, quants

    blocks: npt.NDArray[np.uint8] = quants.quantize(values, GGMLQuantizationType[each.kind])
    return blocks


def _half(each: PlannedTensor, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UnsupportedError(
            f"tensor {each.target.name!r} has numbers up to {np.abs(values).max():.4g}, more than "
            "float16 holds; export with --quantization bf16 or q8_0"
        )
    return halves
