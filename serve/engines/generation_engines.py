"""From a catalogue entry to what generates: which engine, which files, which weights."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ironcliw.catalog import ModelCard
from ironcliw.errors import ModelLoadError
from ironcliw.setting_sections import ServeSettings
from ironcliw.sources import locate
from serve.generation.protocol import Decoder, Generator

EngineT = TypeVar("EngineT", bound=Decoder | Generator)


def load_generation(
    card: ModelCard,
    settings: ServeSettings,
    cache_dir: Path,
    progress: Callable[[float], None] | None = None,
) -> Decoder | Generator:
    """Load a generating model; blocking, for seconds (minutes where it is converted first).

    Args:
        card: The model.
        settings: Engine, device, precision, slots and memory of the KV cache.
        cache_dir: Where fetched and converted models are kept.
        progress: Told the fraction that was taken, rising to 1; called in this thread.

    Raises:
        ModelLoadError: the files are absent, damaged or of a kind that is not supported.
        UnsupportedError: the engine is not installed.
    """
    if card.source and card.source.startswith("fake:"):
        from serve.engines.decoders.fake import FakeDecoder

        return _loaded(FakeDecoder(card.source), progress)
    path = locate(card, cache_dir)
    engine = choose_engine(card, settings, path)
    if engine == "vllm":
        from serve.engines.vllm_generator import VllmGenerator

        generator = VllmGenerator(
            path,
            slots=settings.generation_slots,
            max_waiting=settings.max_waiting_jobs,
            kv_bytes=settings.kv_cache_bytes,
            precision=settings.precision,
            quantization=card.quantization,
        )
        return _loaded(generator, progress)
    if engine == "llamacpp":
        from serve.engines.decoders.llamacpp import LlamaCppDecoder

        if card.quantization is not None:
            raise ModelLoadError(
                f"model {card.id!r}: llama.cpp computes a GGUF file as it was quantised; remove "
                f"models.{card.id}.quantization, or set models.{card.id}.engine = 'torch'"
            )
        decoder = LlamaCppDecoder(
            path,
            slots=settings.generation_slots,
            kv_bytes=settings.kv_cache_bytes,
            threads=settings.threads,
            device=settings.device,
        )
        return _loaded(decoder, progress)
    return _load_ours(card, settings, path, cache_dir, progress)


def choose_engine(card: ModelCard, settings: ServeSettings, path: Path) -> str:
    """`torch`, `llamacpp` or `vllm`: as set for the model, as set for all, or what fits best here.

    By itself, llama.cpp is chosen for a GGUF file on a Mac (Metal), vLLM for a folder where there
    is a CUDA device, each only where it is installed.
    """
    wanted = card.engine or settings.generation_engine
    if wanted != "auto":
        return wanted
    if path.is_file() and sys.platform == "darwin" and _installed("llama_cpp"):
        return "llamacpp"
    if path.is_dir() and card.task == "generation" and _installed("vllm"):
        import torch

        if torch.cuda.is_available():
            return "vllm"
    return "torch"


def _load_ours(
    card: ModelCard,
    settings: ServeSettings,
    path: Path,
    cache_dir: Path,
    progress: Callable[[float], None] | None,
) -> Decoder:
    from serve.engines.decoders.folder import GenerationFolder
    from serve.engines.decoders.load import LoadOptions, load_decoder, load_gguf

    options = LoadOptions(
        device=settings.device,
        precision=settings.precision,
        quantization=card.quantization,
        threads=settings.threads,
        slots=settings.generation_slots,
        kv_bytes=settings.kv_cache_bytes,
    )
    if path.is_file():
        return load_gguf(path, cache_dir, options, progress)
    return load_decoder(GenerationFolder.read(path), options, progress)


def _loaded(engine: EngineT, progress: Callable[[float], None] | None) -> EngineT:
    if progress is not None:
        progress(1.0)
    return engine


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
