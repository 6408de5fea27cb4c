"""The matrix products of the encoder and nothing else: the rate that no implementation passes.

Only the linear layers are counted (attention scores, norms, pooling and tokenising are free
here), so the real ceiling is lower for long texts.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import linear

from benchmarks.child import Embed

# tokens in one product; large enough for the full rate, small enough to stay in cache
CHUNK = 2048


def build_fp32(model: Path, threads: int) -> Embed:
    """Products in float32."""
    return _build(model, threads, torch.float32)


def build_bf16(model: Path, threads: int) -> Embed:
    """Products in bfloat16."""
    return _build(model, threads, torch.bfloat16)


def token_counts(model: Path, texts: list[str]) -> list[int]:
    """Tokens of each text as the model sees it: special tokens in, cut at its window."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    window = model / "sentence_bert_config.json"
    length = json.loads(window.read_text())["max_seq_length"] if window.exists() else 512
    tokenizer.enable_truncation(length)
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


def _build(model: Path, threads: int, dtype: torch.dtype) -> Embed:
    torch.set_num_threads(threads)
    config = json.loads((model / "config.json").read_text())
    width, inner, layers = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    shapes = [(3 * width, width), (width, width), (inner, width), (width, inner)]
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    rows = {size: torch.randn(CHUNK, size, dtype=dtype) for size in (width, inner)}
    counts: dict[tuple[str, ...], int] = {}

    @torch.inference_mode()
    def multiply(texts: list[str]) -> None:
        key = tuple(texts)
        if key not in counts:  # in the untimed first call
            counts[key] = sum(token_counts(model, texts))
        remaining = counts[key]
        while remaining > 0:
            for _ in range(layers):
                for weight in weights:
                    linear(rows[weight.shape[1]][:remaining], weight)
            remaining -= CHUNK

    return multiply
