"""Which tensors a GGUF file gets of a Hugging Face folder, under which names and in which form.

The reader itself is asked what it would make of the file before there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ModelLoadError, UnsupportedError
from native_ops.gguf import GgufFile, GgufTensor
from native_ops.gguf_architectures import TargetTensor, model_config, model_tensors
from native_ops.gguf_export_config import rope_factors
from native_ops.gguf_names import (
    GPT2,
    GPT2_OUTER,
    LLAMA,
    LLAMA_OUTER,
    QK_NORMS,
    QKV_BIASES,
    ROPE_FACTORS,
)
from native_ops.gguf_types import BLOCK_TYPES

GgufQuantization = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]

BLOCKS = {block.name: block for block in BLOCK_TYPES.values()}

_ALWAYS_FLOAT = ("position_embd.weight", ROPE_FACTORS)
_SENSITIVE = ("token_embd.weight", "output.weight")
"""Kept in 8 bits where others have 4: an error in them is an error in every token."""
_LLAMA_PARTS = LLAMA | QKV_BIASES | QK_NORMS | {"attn_output.bias": "self_attn.o_proj.bias"}
_OF_FILE = frozenset({"architectures", "model_type", "rope_theta", "dtype"})
"""Keys that say nothing of what is computed, or that another key says again."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the folder.

    Attributes:
        shape: As it is stored.
        take: Reads it.
    """

    shape: tuple[int, ...]
    take: Callable[[], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the file.

    Attributes:
        target: Its names, and how the reader changes it; writing is the way back.
        kind: Element type, e.g. "Q8_0".
        shape: In the file, row-major.
    """

    target: TargetTensor
    kind: str
    shape: tuple[int, ...]


def plan_tensors(
    file: Path,
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    quantization: GgufQuantization,
) -> list[PlannedTensor]:
    """What is written, in the folder's order.

    Args:
        file: For messages.
        metadata: Of the file.
        config: transformers' configuration, with its defaults.
        stored: Every weight of the folder.
        quantization: Of the matrices.

    Raises:
        UnsupportedError: the reader would make another model of it, or cannot read it.
    """
    tied = bool(config.get("tie_word_embeddings"))
    sources = {
        name: _source(name, str(metadata["general.architecture"]))
        for name in stored
        if not (tied and name == "lm_head.weight")
    }
    tensors = {
        source: GgufTensor(source, "F32", stored[name].shape, 0, 0)
        for name, source in sources.items()
    }
    factors = rope_factors(config)
    data = np.empty(0, np.uint8)
    if factors is not None:
        tensors[ROPE_FACTORS] = GgufTensor(ROPE_FACTORS, "F32", factors.shape, 0, factors.nbytes)
        data = factors.view(np.uint8)
    probe = GgufFile(file, metadata, tensors, data)
    try:
        targets = model_tensors(probe)
        read = model_config(probe)
    except ModelLoadError as error:
        raise UnsupportedError(
            f"the model cannot be written as GGUF ({error.message}); export it with --format "
            "safetensors"
        ) from error
    _check_same(config, read)
    return [_planned(target, stored[target.name].shape, quantization) for target in targets]


def _source(name: str, architecture: str) -> str:
    """The name in the file of a tensor of the folder."""
    prefix, parts, outer = "model.layers.", _LLAMA_PARTS, LLAMA_OUTER
    if architecture == "gpt2":
        prefix, parts, outer = "transformer.h.", GPT2, GPT2_OUTER
    found = {value: key for key, value in outer.items()} | {"lm_head.weight": "output.weight"}
    if name in found:
        return found[name]
    layer, _, rest = name.removeprefix(prefix).partition(".")
    part = {value: key for key, value in parts.items()}.get(rest)
    if not name.startswith(prefix) or part is None:
        raise UnsupportedError(
            f"the model has a tensor {name!r}, for which GGUF of {architecture} has no name; "
            "export it with --format safetensors"
        )
    return f"blk.{layer}.{part}"


def _check_same(config: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    """What the reader makes of the file must be the model that it is made from.

    Raises:
        UnsupportedError: it would compute something else.
    """
    import transformers

    known = {key: value for key, value in read.items() if key not in _OF_FILE}
    kind = "mistral" if config["model_type"] == "mistral" else read["model_type"]
    made = transformers.AutoConfig.for_model(kind, **known).to_dict()
    for key in known:
        # what a configuration leaves open follows from the rest of it
        if config.get(key) is not None and not _same(config[key], made[key]):
            raise UnsupportedError(
                f"the model's {key} is {config[key]!r}, and a GGUF file would say {made[key]!r}; "
                "export it with --format safetensors"
            )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        keys = {key for key in left.keys() | right.keys() if left.get(key) is not None}
        return all(_same(left.get(key), right.get(key)) for key in keys)
    if isinstance(left, float) or isinstance(right, float):
        return left is not None and right is not None and math.isclose(left, right, rel_tol=1e-6)
    return bool(left == right)


def _planned(
    target: TargetTensor, shape: tuple[int, ...], quantization: GgufQuantization
) -> PlannedTensor:
    if target.change == "transpose":
        shape = shape[::-1]
    kind = quantization.upper()
    if len(shape) == 1 or target.source in _ALWAYS_FLOAT:
        kind = "F32"
    elif target.source in _SENSITIVE and quantization.startswith("q4"):
        kind = "Q8_0"
    if shape[-1] % BLOCKS[kind].elements:
        kind = "F16"
    return PlannedTensor(target, kind, shape)
