"""From a catalogue entry to an engine or a tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ironcliw.catalog import ModelCard
from ironcliw.errors import RequestError
from ironcliw.settings import ServeSettings
from ironcliw.sources import locate
from serve.engines.protocol import EmbeddingEngine, Encoded

EMBEDDING_TASKS = frozenset({"embedding", "encoder"})


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
    if card.task not in EMBEDDING_TASKS:
        raise RequestError(
            f"model {card.id!r} is for {card.task}, not for embeddings; `GET /v1/models` lists "
            "the task of each",
            param="model",
        )


def load_engine(card: ModelCard, settings: ServeSettings, cache_dir: Path) -> EmbeddingEngine:
    """Load a model's weights; blocking, for seconds.

    Raises:
        ModelLoadError: the files are absent, damaged or of a kind that is not supported.
    """
    if card.source and card.source.startswith("fake:"):
        from serve.engines.fake import FakeEngine

        return FakeEngine(card.source)
    # imported here: torch costs a second and 200 MB, and the ingress never needs it
    from serve.engines.encoder import load_encoder
    from serve.engines.folder import EncoderFolder

    return load_encoder(
        EncoderFolder.read(locate(card, cache_dir)),
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )


def load_preparer(card: ModelCard, cache_dir: Path) -> Prepared:
    """Load a model's tokenizer; blocking, for tens of milliseconds. Never imports torch.

    Raises:
        ModelLoadError: the files are absent, damaged or of a kind that is not supported.
    """
    if card.source and card.source.startswith("fake:"):
        from serve.engines.fake import FakeTextEncoder

        return Prepared(FakeTextEncoder(), {}, "")
    from serve.engines.folder import EncoderFolder
    from serve.engines.tokenizer import TextEncoder

    folder = EncoderFolder.read(locate(card, cache_dir))
    default = folder.prompts.get(folder.default_prompt_name or "", "")
    return Prepared(TextEncoder(folder), folder.prompts, default)


def estimate_bytes(card: ModelCard, cache_dir: Path) -> int:
    """Bytes that loading will need: the sizes of the files where they are here, else as published.

    Raises:
        ModelLoadError: the model has no source, or its files should be here and are not.
    """
    scheme = (card.source or "").partition(":")[0]
    if scheme in {"fake", "hf", "gs"}:
        return card.bytes or 1_000_000
    path = locate(card, cache_dir)
    files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.gguf")]
    return sum(file.stat().st_size for file in files) or card.bytes or 1_000_000
