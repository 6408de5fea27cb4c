"""Our embedding engine in process, end to end: tokenise, pack, forward."""

from __future__ import annotations

from pathlib import Path

from benchmarks.child import Embed
from ironcliw.encoder_folder import EncoderFolder
from ironcliw.settings import load_settings
from serve.engines.encoder import load_encoder
from serve.engines.protocol import EmbeddingEngine, PackedTokens
from serve.engines.tokenizer import TextEncoder
from serve.host import use_cpu_capability


def build(model: Path, threads: int) -> Embed:
    """The engine in the precision that it chooses for this machine."""
    return _build(model, threads, "auto")


def build_int8(model: Path, threads: int) -> Embed:
    """The engine with weights in int8."""
    return _build(model, threads, "int8")


def build_engine(model: Path, threads: int) -> Embed:
    """The engine alone: texts are tokens already, after the untimed first call."""
    engine, tokenizer = _load(model, threads, "auto")
    known: dict[tuple[str, ...], PackedTokens] = {}

    def embed(texts: list[str]) -> object:
        key = tuple(texts)
        if key not in known:
            known[key] = PackedTokens.pack([item.tokens for item in tokenizer.encode(texts)])
        return engine.embed(known[key])

    return embed


def _build(model: Path, threads: int, precision: str) -> Embed:
    engine, tokenizer = _load(model, threads, precision)

    def embed(texts: list[str]) -> object:
        encoded = tokenizer.encode(texts)
        return engine.embed(PackedTokens.pack([item.tokens for item in encoded]))

    return embed


def _load(model: Path, threads: int, precision: str) -> tuple[EmbeddingEngine, TextEncoder]:
    use_cpu_capability(load_settings().cpu_capability)
    folder = EncoderFolder.read(model)
    engine = load_encoder(folder, threads=threads, precision=precision)
    return engine, TextEncoder(folder)
