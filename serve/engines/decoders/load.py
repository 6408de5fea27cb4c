"""Load a generating model onto the best device of this machine, in the precision it is fast at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import get_args

import torch

from ironcliw.errors import ModelLoadError, SettingsError
from serve.engines.decoders import gpt2, llama, t5
from serve.engines.decoders.base import Placement, TorchDecoder
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.projections import Quantization
from serve.engines.encoder import choose_device, choose_precision
from serve.engines.weights import LoadCounter
from serve.generation.protocol import Decoder

logger = logging.getLogger(__name__)

_DECODERS: dict[str, Callable[[GenerationFolder, Placement], TorchDecoder]] = {
    **dict.fromkeys(llama.MODEL_TYPES, llama.LlamaDecoder),
    **dict.fromkeys(gpt2.MODEL_TYPES, gpt2.Gpt2Decoder),
    **dict.fromkeys(t5.MODEL_TYPES, t5.T5Decoder),
}


def load_decoder(
    folder: GenerationFolder,
    *,
    device: str = "auto",
    precision: str = "auto",
    quantization: Quantization | None = None,
    threads: int | None = None,
    slots: int = 8,
    kv_bytes: int = 512 << 20,
    progress: Callable[[float], None] | None = None,
) -> Decoder:
    """Load a model; blocking, for seconds.

    Args:
        folder: The model's folder, read and checked.
        device: `auto` (CUDA, then MPS, then CPU), `cpu`, `mps`, `cuda` or `cuda:N`.
        precision: Of the matrix products and the KV cache: `auto` (what the device computes
            natively in 16 bits, else `float32`), `float32`, `bfloat16` or `float16`.
        quantization: Of the weights inside the layers: `8bit`, `4bit`; None keeps them.
            Embeddings, norms and the output layer are never quantised.
        threads: Compute threads of this process; None leaves PyTorch's choice.
        slots: Sequences that can be held at once.
        kv_bytes: Most bytes of the KV cache.
        progress: Told the fraction of the weights' bytes that was taken, rising to 1; called in
            this thread.

    Raises:
        SettingsError: no such device, precision or quantization here, no slots, or a KV cache too
            small for them.
        ModelLoadError: an architecture that is not supported, or files that do not fit it.
    """
    make = _DECODERS.get(folder.model_type)
    if make is None:
        raise ModelLoadError(
            f"{folder.path / 'config.json'}: model type {folder.model_type!r} does not generate "
            f"text here; supported are {', '.join(sorted(_DECODERS))}",
            code="model_type_unsupported",
        )
    if quantization is not None and quantization not in get_args(Quantization):
        raise SettingsError(
            f"quantization {quantization!r} is unknown; known are None, "
            f"{', '.join(get_args(Quantization))}"
        )
    if slots < 1:
        raise SettingsError(f"{slots} slots; a decoder needs at least one")
    if threads is not None:
        torch.set_num_threads(threads)
    place = choose_device(device)
    counter = LoadCounter(folder.stored_bytes, progress)
    placement = Placement(
        device=place,
        dtype=choose_precision(place, precision),
        quantization=quantization,
        slots=slots,
        kv_bytes=kv_bytes,
        counter=counter,
    )
    decoder = make(folder, placement)
    counter.finish()
    logger.info(
        "loaded %s on %s in %s: %d slots, %d positions, %d bytes",
        folder.path,
        decoder.device,
        decoder.precision,
        decoder.slots,
        decoder.kv_tokens,
        decoder.resident_bytes,
    )
    return decoder
