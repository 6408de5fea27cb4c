"""Load a generating model onto the best device of this machine, in the precision it is fast at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from ironcliw.errors import ModelLoadError, SettingsError
from native_ops import binary
from native_ops.gguf_conversion import converted_folder
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


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a decoder is to be loaded.

    Attributes:
        device: `auto` (CUDA, then MPS, then CPU), `cpu`, `mps`, `cuda` or `cuda:N`.
        precision: Of weights and matrix products: `auto`, `float32`, `bfloat16` or `float16`. The
            compiled kernels take `auto` as: 16 bits a weight, those of a GGUF file as they are.
            Without them it is what the device computes natively in 16 bits, else `float32`, for
            the KV cache too.
        quantization: Of the weights inside the layers: `8bit`, `4bit`; None keeps them.
            Embeddings, norms and the output layer are never quantised.
        threads: Compute threads of this process; None leaves PyTorch's choice.
        slots: Sequences that can be held at once.
        kv_bytes: Most bytes of the KV cache.
        native: Whether to compute with the compiled kernels where they can: on a CPU, Llama's
            family and GPT-2.
    """

    device: str = "auto"
    precision: str = "auto"
    quantization: Quantization | None = None
    threads: int | None = None
    slots: int = 8
    kv_bytes: int = 512 << 20
    native: bool = True

    def prepare(self) -> torch.device:
        """Check the options, set this process's threads, and choose the device.

        Raises:
            SettingsError: no such device or quantization here, or no slots.
        """
        if self.quantization is not None and self.quantization not in get_args(Quantization):
            raise SettingsError(
                f"quantization {self.quantization!r} is unknown; known are None, "
                f"{', '.join(get_args(Quantization))}"
            )
        if self.slots < 1:
            raise SettingsError(f"{self.slots} slots; a decoder needs at least one")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return choose_device(self.device)


def load_decoder(
    folder: GenerationFolder,
    options: LoadOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> Decoder:
    """Load a model from its folder; blocking, for seconds.

    Args:
        folder: The model's folder, read and checked.
        options: How; None: the best of this machine.
        progress: Told the fraction of the weights' bytes that was taken, rising to 1; called in
            this thread.

    Raises:
        SettingsError: no such device, precision or quantization here, no slots, or a KV cache too
            small for them.
        ModelLoadError: an architecture that is not supported, or files that do not fit it.
    """
    options = options or LoadOptions()
    make = _DECODERS.get(folder.model_type)
    if make is None:
        raise ModelLoadError(
            f"{folder.path / 'config.json'}: model type {folder.model_type!r} does not generate "
            f"text here; supported are {', '.join(sorted(_DECODERS))}",
            code="model_type_unsupported",
        )
    device = options.prepare()
    dtype = choose_precision(device, options.precision)
    counter = LoadCounter(folder.stored_bytes, progress)
    decoder: Decoder | None = None
    if _kernels(device, options):
        from serve.engines.decoders.native import native_from_folder

        decoder = native_from_folder(
            folder,
            None if options.precision == "auto" else dtype,
            options.quantization,
            slots=options.slots,
            kv_bytes=options.kv_bytes,
            counter=counter,
        )
    if decoder is None:
        quantization, slots, kv_bytes = options.quantization, options.slots, options.kv_bytes
        decoder = make(folder, Placement(device, dtype, quantization, slots, kv_bytes, counter))
    counter.finish()
    return _logged(decoder, folder.path)


def load_gguf(
    file: Path,
    cache_dir: Path,
    options: LoadOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> Decoder:
    """Load a model from a GGUF file; blocking, for seconds (minutes where it must be converted).

    The compiled kernels read the weights as the file has them. Without them, or where another
    precision is asked for, the file is converted into a folder once.

    Args:
        file: The GGUF file.
        cache_dir: Where converted models are kept.
        options: As of `load_decoder`.
        progress: As of `load_decoder`.

    Raises:
        SettingsError, ModelLoadError: as `load_decoder`; also a damaged file.
    """
    options = options or LoadOptions()
    device = options.prepare()
    as_stored = options.precision == "auto" and options.quantization is None
    if as_stored and _kernels(device, options):
        from serve.engines.decoders.native import native_from_gguf

        decoder = native_from_gguf(
            file, slots=options.slots, kv_bytes=options.kv_bytes, progress=progress
        )
        if decoder is not None:
            return _logged(decoder, file)
    return load_decoder(GenerationFolder.read(converted_folder(file, cache_dir)), options, progress)


def _kernels(device: torch.device, options: LoadOptions) -> bool:
    """Whether to compute with the compiled kernels."""
    return options.native and device.type == "cpu" and binary.load() is not None


def _logged(decoder: Decoder, path: Path) -> Decoder:
    logger.info(
        "loaded %s on %s in %s: %d slots, %d positions, %d bytes",
        path,
        decoder.device,
        decoder.precision,
        decoder.slots,
        decoder.kv_tokens,
        decoder.resident_bytes,
    )
    return decoder
