"""Rows whose tokens are the bytes of texts, and a tiny model for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tests.unit.train.small_tokenizers import small
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.tokenizer import TrainingTokenizer

TOKENIZER: TrainingTokenizer = small()
END = TOKENIZER.end_tokens[-1]


def encoded(text: str) -> list[int]:
    return TOKENIZER.encode([text], special=False)[0]


def text_rows(pairs: Sequence[tuple[str, str]]) -> TokenizedData:
    """Prompts and their answers, each with the end of a turn."""
    rows = []
    for prompt, answer in pairs:
        before, after = encoded(prompt), [*encoded(answer), END]
        tokens = np.array([*before, *after], np.int32)
        rows.append(TokenRow(tokens, np.arange(len(tokens)) >= len(before)))
    sources = [(0, number + 1) for number in range(len(rows))]
    return TokenizedData.of_rows(rows, sources, ["rows.jsonl"])


def make_text_model(folder: Path, kind: str = "Llama", seed: int = 0, **changes: object) -> Path:
    """Random weights for the tokens of `TOKENIZER`."""
    import transformers

    torch.manual_seed(seed)
    made = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": 260,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            # wide, so that the likeliest token is so by more than rounding
            "initializer_range": 0.3,
            **changes,
        }
    )
    transformers.AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    return folder
