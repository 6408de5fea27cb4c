"""How many bytes a decoder's weights will take, from its files alone: no torch, no weights read."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from ironcliw.catalog import ModelCard
from ironcliw.setting_sections import ServeSettings
from native_ops import presence
from native_ops.gguf import GgufFile, GgufTensor

_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2}
_QUANTIZED_BYTES = {"8bit": 1 + 1 / 64, "4bit": 20 / 32}
"""Of a weight inside a layer: int8 with a scale a row, of 256 or more numbers; blocks of Q4_1."""

# of the packed form against the file's: a super-block of Q4_K has its scales as 16 bits
_PACKED_GROWTH = {"F32": 1.0, "F16": 1.0, "BF16": 1.0, "Q4_0": 1.0, "Q4_1": 1.0, "Q8_0": 1.0}
_PACKED_GROWTH |= {"Q4_K": 148 / 144, "Q6_K": 1.0}
_NVIDIA = Path("/dev/nvidiactl")


def gguf_bytes(path: Path, card: ModelCard, settings: ServeSettings) -> int:
    """Of a GGUF file.

    Args:
        path: The file.
        card: The model.
        settings: Device, precision and engine.

    Raises:
        ModelLoadError: the file is damaged.
    """
    if (card.engine or settings.generation_engine) == "llamacpp":
        return path.stat().st_size
    file = GgufFile.read(path)
    tensors = file.tensors.values()
    if settings.precision == "auto" and card.quantization is None and _compiled(settings):
        return sum(_packed_bytes(tensor) for tensor in tensors) + _rotary_bytes(file)
    # converted to a folder first; in float16 or bfloat16, but for float32 where it is asked for
    return _decoder_bytes({t.name: math.prod(t.shape) for t in tensors}, card, settings)


def _packed_bytes(tensor: GgufTensor) -> int:
    """As `serve.engines.decoders.native` keeps it; a kind without a kernel becomes int8."""
    elements = math.prod(tensor.shape)
    if len(tensor.shape) < 2:
        return 4 * elements
    growth = _PACKED_GROWTH.get(tensor.kind)
    return math.ceil(tensor.nbytes * growth) if growth else elements + 4 * tensor.rows


def _rotary_bytes(file: GgufFile) -> int:
    """Sines and cosines of each position, float32; none where positions are learned."""
    name = file.metadata.get("general.architecture")
    keys = ("context_length", "embedding_length", "attention.head_count")
    context, width, heads = (file.integer(f"{name}.{key}", 0) for key in keys)
    if name == "gpt2" or min(context, width, heads) < 1:
        return 0
    return 4 * context * (width // heads)


def folder_bytes(path: Path, card: ModelCard, settings: ServeSettings) -> int:
    """Of a folder; as `gguf_bytes`."""
    from serve.engines.decoders.folder import GenerationFolder

    tensors = GenerationFolder.read(path).tensors
    elements = {name: tensor.elements for name, tensor in tensors.items()}
    return _decoder_bytes(elements, card, settings)


def _decoder_bytes(elements: dict[str, int], card: ModelCard, settings: ServeSettings) -> int:
    """Of tensors by name, those of layers quantised where that is asked for."""
    causal = card.task == "generation"
    # what is stored in float32 becomes bfloat16 in the compiled step, and float16 on a GPU
    automatic = 2 if causal and (_compiled(settings) or _accelerated(settings)) else 4
    asked = _ELEMENT_BYTES.get(settings.precision, 4)
    size = automatic if settings.precision == "auto" else asked
    inner = _QUANTIZED_BYTES.get(card.quantization or "", size)
    return math.ceil(
        sum(
            count * (inner if any(part.isdigit() for part in name.split(".")) else size)
            for name, count in elements.items()
        )
    )


def _compiled(settings: ServeSettings) -> bool:
    """Whether a decoder is likely to run on the compiled kernels."""
    return not _accelerated(settings) and presence.installed()


def _accelerated(settings: ServeSettings) -> bool:
    """Whether a decoder is likely to run on a GPU; what torch would say is not known here."""
    if settings.device != "auto":
        return settings.device != "cpu"
    return sys.platform == "darwin" or _NVIDIA.exists()
