"""sentence-transformers as its documentation shows it: `encode` with batches of 32."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.child import Embed


def build_fp32(model: Path, threads: int) -> Embed:
    """The library's default precision."""
    return _build(model, threads, torch.float32)


def build_bf16(model: Path, threads: int) -> Embed:
    """The whole model in bfloat16."""
    return _build(model, threads, torch.bfloat16)


def _build(model: Path, threads: int, dtype: torch.dtype) -> Embed:
    torch.set_num_threads(threads)
    transformer = SentenceTransformer(str(model), device="cpu").to(dtype)

    def embed(texts: list[str]) -> object:
        vectors = transformer.encode(
            texts,
            batch_size=32,
            normalize_embeddings=True,
            show_progress_bar=False,
            # numpy has no bfloat16
            convert_to_tensor=True,
        )
        return vectors.float().numpy()

    return embed
