"""From a catalogue entry to an engine or a tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ironcliw.catalog import ModelCard
from ironcliw.errors import RequestError, UnsupportedError
from ironcliw.setting_sections import ServeSettings
from ironcliw.sources import locate
from serve.engines.protocol import ClassificationEngine, EmbeddingEngine, Encoded

EMBEDDING_TASKS = frozenset({"embedding", "encoder"})
CLASSIFICATION_TASKS = frozenset({"nli", "classifier"})
GENERATION_TASKS = frozenset({"generation", "seq2seq"})

_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2}
_UNKNOWN_BYTES = 1_000_000


class Preparer(Protocol):
    """The CPU half of an embedding model: texts to tokens."""

    def encode(self, texts: Sequence[str], prompt: str = "") -> list[Encoded]:
        """Tokens of each text, cut to the model's window."""
        ...

    def check(self, tokens: Sequence[int]) -> Encoded:
        """Token ids given by the client."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A tokenizer with the facts of its model that requests need."""

    encoder: Preparer
    prompts: Mapping[str, str]
    default_prompt: str


def require_embedding(card: ModelCard) -> None:
    """Raise RequestError unless the model makes embeddings."""
    _require(card, EMBEDDING_TASKS, "embeddings")
    if card.adapter is not None and card.adapter.kind == "head":
        raise RequestError(
            f"model {card.id!r} is a head, which decides; for vectors, ask for "
            f"{card.adapter.base!r}",
            param="model",
        )


def require_classification(card: ModelCard) -> None:
    """Raise RequestError unless the model classifies sequences."""
    _require(card, CLASSIFICATION_TASKS, "classification")


def require_generation(card: ModelCard) -> None:
    """Raise RequestError unless the model generates text."""
    _require(card, GENERATION_TASKS, "generation")


def require_served(card: ModelCard) -> None:
    """Raise UnsupportedError for a task that nothing here computes."""
    if card.task not in EMBEDDING_TASKS | CLASSIFICATION_TASKS | GENERATION_TASKS:
        raise UnsupportedError(
            f"model {card.id!r} is for {card.task}, which is not supported yet", param="model"
        )


def _require(card: ModelCard, tasks: frozenset[str], purpose: str) -> None:
    if card.task not in tasks:
        raise RequestError(
            f"model {card.id!r} is for {card.task}, not for {purpose}; `GET /v1/models` lists "
            "the task of each",
            param="model",
        )


def load_engine(
    card: ModelCard,
    settings: ServeSettings,
    cache_dir: Path,
    progress: Callable[[float], None] | None = None,
) -> EmbeddingEngine:
    """Load a model's weights; blocking, for seconds.

    Args:
        card: The model.
        settings: Device, precision and threads.
        cache_dir: Where fetched models are kept.
        progress: Told the fraction of the weights' bytes that was taken, rising to 1; called in
            this thread.

    Raises:
        ModelLoadError: the files are absent, damaged or of a kind that is not supported.
    """
    if card.source and card.source.startswith("fake:"):
        from serve.engines.fake import FakeEngine

        engine = FakeEngine(card.source)
        if progress is not None:
            progress(1.0)
        return engine
    # imported here: torch costs a second and 200 MB, and the ingress never needs it
    from ironcliw.encoder_folder import EncoderFolder
    from serve.engines.encoder import load_encoder

    return load_encoder(
        EncoderFolder.read(locate(card, cache_dir)),
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        progress=progress,
    )


def load_classification_engine(
    card: ModelCard,
    settings: ServeSettings,
    cache_dir: Path,
    progress: Callable[[float], None] | None = None,
) -> ClassificationEngine:
    """Load a sequence classifier's weights; blocking, for seconds. As `load_engine` otherwise."""
    if card.source and card.source.startswith("fake:"):
        from serve.engines.fake import FakeClassifier

        engine = FakeClassifier(card.source)
        if progress is not None:
            progress(1.0)
        return engine
    from serve.engines.classifier import load_classifier

    return load_classifier(
        locate(card, cache_dir),
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        progress=progress,
    )


def load_preparer(card: ModelCard, cache_dir: Path) -> Prepared:
    """Load a model's tokenizer; blocking, for tens of milliseconds. Never imports torch.

    Raises:
        ModelLoadError: the files are absent, damaged or of a kind that is not supported.
    """
    if card.source and card.source.startswith("fake:"):
        from serve.engines.fake import FakeTextEncoder

        return Prepared(FakeTextEncoder(), {}, "")
    from ironcliw.encoder_folder import EncoderFolder
    from serve.engines.tokenizer import TextEncoder

    folder = EncoderFolder.read(locate(card, cache_dir))
    default = folder.prompts.get(folder.default_prompt_name or "", "")
    return Prepared(TextEncoder(folder), folder.prompts, default)


def estimate_bytes(card: ModelCard, cache_dir: Path, settings: ServeSettings) -> int:
    """Bytes that loading will need: from the files where they are here, else as published.

    Args:
        card: The model.
        cache_dir: Where fetched models are kept.
        settings: Device, precision (of an encoder, `auto` counts as float32, the most that it can
            become: what the device computes in is known where torch is, and the true figure once
            it is loaded), engine and size of the KV cache.

    Raises:
        ModelLoadError: the model has no source, its files should be here and are not, or they are
            damaged.
    """
    generates = card.task in GENERATION_TASKS
    extra = settings.kv_cache_bytes if generates else 0
    scheme = (card.source or "").partition(":")[0]
    if scheme == "fake":
        return card.bytes or _UNKNOWN_BYTES
    if scheme in {"hf", "gs"}:
        return (card.bytes or _UNKNOWN_BYTES) + extra
    path = locate(card, cache_dir)
    if generates:
        from serve.engines.decoder_bytes import folder_bytes, gguf_bytes

        weights = gguf_bytes if path.is_file() else folder_bytes
        return weights(path, card, settings) + extra
    from ironcliw.encoder_folder import EncoderFolder

    size = _ELEMENT_BYTES.get(settings.precision, 4)
    folder = EncoderFolder.read(path)
    transformer = sum(tensor.elements for tensor in folder.tensors.values())
    head = sum(tensor.elements for tensor in folder.head_tensors)  # always float32
    return transformer * size + head * 4
