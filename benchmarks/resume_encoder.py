"""What the proof of exact resume trains where it trains embeddings: a small encoder, and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData

_WORDS = 64
_LABELS = 5


def make_encoder(folder: Path) -> Path:
    """A BERT of two layers with random weights, as sentence-transformers lays it out."""
    import transformers

    torch.manual_seed(0)
    made: Any = transformers.BertConfig
    config = made(
        vocab_size=_WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    module: Any = transformers.BertModel(config)
    module.save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    return folder


def make_texts(count: int) -> TokenizedData:
    """Random tokens, each with the name of one of a few labels."""
    random = np.random.default_rng(0)
    rows = []
    for at in range(count):
        text = random.integers(0, _WORDS, int(random.integers(3, 14)))
        name = [at % _LABELS, at % _LABELS + 1]
        tokens = np.array([*text, *name], np.int32)
        starts = (0, len(text))
        rows.append(TokenRow(tokens, np.zeros(len(tokens), np.bool_), None, starts, labelled=True))
    return TokenizedData.of_rows(rows, [(0, at + 1) for at in range(count)], ["texts"])
