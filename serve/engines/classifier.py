"""Load a sequence classifier: on compiled kernels where they compute it, else in transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from ironcliw.encoder_folder import EncoderFolder
from serve.engines.encoder import choose_device, choose_precision
from serve.engines.native_stack import native_suits
from serve.engines.packed_classifier import packed_classifier
from serve.engines.protocol import ClassificationEngine
from serve.engines.weights import LoadCounter

logger = logging.getLogger(__name__)


def load_classifier(
    path: Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> ClassificationEngine:
    """Load a model; blocking, for seconds.

    Args:
        path: A folder as transformers writes it, weights in safetensors.
        device: As of `serve.engines.encoder.load_encoder`, as are the others.
        precision: Of the model; its head and the logits are in float32.
        threads: Compute threads of this process; None leaves PyTorch's choice.
        progress: Told the fraction of the weights' bytes that was taken, rising to 1.

    Raises:
        SettingsError: no such device or precision here.
        ModelLoadError: the files are absent, pickled, damaged, lack weights, or ask to run code.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = choose_device(device)
    dtype = choose_precision(place, precision)
    folder = EncoderFolder.read(path)
    total = sum(tensor.nbytes for tensor in folder.tensors.values())
    counter = LoadCounter(total, progress)
    engine = _engine(folder, place, dtype, precision, counter)
    counter.finish()
    logger.info(
        "loaded %s on %s in %s: %d classes, %d bytes",
        folder.path,
        engine.device,
        engine.precision,
        len(engine.labels),
        engine.resident_bytes,
    )
    return engine


def _engine(
    folder: EncoderFolder,
    device: torch.device,
    dtype: torch.dtype,
    precision: str,
    counter: LoadCounter,
) -> ClassificationEngine:
    native = torch.int8 if precision == "int8" and native_suits(device, torch.int8) else dtype
    with torch.inference_mode():
        if native_suits(device, native):
            engine = packed_classifier(folder, native, counter)
            if engine is not None:
                return engine
    # imported here: transformers costs 100 MB, and what the kernels compute does without it
    from serve.engines.padded_classifier import PaddedClassifier

    return PaddedClassifier(folder, device, dtype)
