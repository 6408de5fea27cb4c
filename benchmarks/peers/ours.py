"""Our embedding engine in process, end to end: tokenise, pack, forward."""

from __future__ import annotations

from pathlib import Path

from benchmarks.child import Embed
from serve.engines.encoder import load_encoder
from serve.engines.folder import EncoderFolder
from serve.engines.protocol import PackedTokens
from serve.engines.tokenizer import TextEncoder


def build(model: Path, threads: int) -> Embed:
    """The engine in the precision that it chooses for this machine."""
    folder = EncoderFolder.read(model)
    tokenizer = TextEncoder(folder)
    engine = load_encoder(folder, threads=threads)

    def embed(texts: list[str]) -> object:
        encoded = tokenizer.encode(texts)
        return engine.embed(PackedTokens.pack([item.tokens for item in encoded]))

    return embed
