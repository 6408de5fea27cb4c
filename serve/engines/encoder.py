"""Load an embedding model onto the best device of this machine, in the precision it is fast at."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable

import torch

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import SettingsError
from native_ops import binary
from serve.engines.architecture import bert_like
from serve.engines.native_stack import native_suits
from serve.engines.protocol import EmbeddingEngine
from serve.engines.weights import LoadCounter

logger = logging.getLogger(__name__)

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_encoder(
    folder: EncoderFolder,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> EmbeddingEngine:
    """Load a model; blocking, for seconds.

    Args:
        folder: The model's folder, read and checked.
        device: `auto` (CUDA, then MPS, then CPU), `cpu`, `mps`, `cuda` or `cuda:N`.
        precision: Of the matrix products: `auto` (what the device computes natively in 16 bits,
            else `float32`), `float32`, `bfloat16`, `float16`, or `int8`: for the BERT family by the
            compiled kernels on the CPU, and as `auto` for anything else.
        threads: Compute threads of this process; None leaves PyTorch's choice.
        progress: Told the fraction of the weights' bytes that was taken, rising to 1; called in
            this thread.

    Raises:
        SettingsError: no such device or precision here.
        ModelLoadError: the files do not fit the architecture.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = choose_device(device)
    dtype = choose_precision(place, precision)
    architecture = bert_like(folder.config)
    stored = (*folder.tensors.values(), *folder.head_tensors)
    counter = LoadCounter(sum(tensor.nbytes for tensor in stored), progress)
    engine: EmbeddingEngine
    if architecture is not None:
        from serve.engines.packed import PackedEncoder

        if precision == "int8" and native_suits(place, torch.int8):
            dtype = torch.int8
        engine = PackedEncoder(folder, architecture, place, dtype, counter)
    else:
        # imported here: transformers costs 100 MB, and the BERT family does without it
        from serve.engines.padded import PaddedEncoder

        engine = PaddedEncoder(folder, place, dtype, counter)
    counter.finish()
    logger.info(
        "loaded %s on %s in %s: %d dimensions, %d bytes",
        folder.path,
        engine.device,
        engine.precision,
        engine.dimensions,
        engine.resident_bytes,
    )
    return engine


def choose_device(wanted: str) -> torch.device:
    """The device to use; raises SettingsError when this machine has none of that name."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        wanted = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    kind, _, index = wanted.partition(":")
    known = kind == "cpu" or (kind == "mps" and has_mps) or (kind == "cuda" and has_cuda)
    number = int(index) if index.isdigit() else 0
    if not known or (index and not index.isdigit()):
        here = ["cpu", *(["mps"] if has_mps else []), *(["cuda"] if has_cuda else [])]
        raise SettingsError(
            f"device {wanted!r} is not on this machine; here are auto, {', '.join(here)}"
        )
    if kind == "cuda" and number >= torch.cuda.device_count():
        raise SettingsError(f"device {wanted!r}: CUDA has {torch.cuda.device_count()} devices here")
    return torch.device(kind, number) if kind == "cuda" else torch.device(kind)


def choose_precision(device: torch.device, wanted: str) -> torch.dtype:
    """The element type of the matrix products; raises SettingsError for an unknown name.

    `int8` gives what it is beside int8 products: the same as `auto`.
    """
    if wanted not in {"auto", "int8"}:
        if wanted not in _PRECISIONS:
            raise SettingsError(
                f"precision {wanted!r} is unknown; known are auto, {', '.join(_PRECISIONS)}, int8"
            )
        return _PRECISIONS[wanted]
    if device.type == "mps":
        return torch.float16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if _torch_has_bfloat16() and _level_has_bfloat16() else torch.float32


def _level_has_bfloat16() -> bool:
    """Whether nothing caps the compiled kernels below bf16 products (setting `cpu_capability`).

    Below them the kernels are fast in float32 alone: bf16 would be left to PyTorch, which knows
    nothing of the cap and would break it. Without kernels, and on aarch64, whose kernels have no
    bf16 products at any level, there is nothing to keep to.
    """
    if binary.state().level is None or not _is_x86():
        return True
    return native_suits(torch.device("cpu"), torch.bfloat16)


def _torch_has_bfloat16() -> bool:
    """Whether the CPU multiplies bf16 natively and nothing caps PyTorch or oneDNN below it.

    oneDNN alone is not enough to ask: it counts AVX-512 without bf16 instructions, where it
    emulates them at less than fp32's speed.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if not _is_x86():
        return True  # aarch64: oneDNN answers from the CPU's own flags
    capped = not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return not capped and bool(torch.cpu._is_avx512_bf16_supported())


def _is_x86() -> bool:
    return platform.machine().lower() in {"x86_64", "amd64"}
