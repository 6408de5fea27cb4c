"""Preferences of random tokens."""

from __future__ import annotations

import numpy as np

from tests.unit.train.tiny import WORDS
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData


def make_pairs(rows: int = 8, seed: int = 0, longest: int = 12) -> TokenizedData:
    """Prompts of 1 to `longest` tokens and answers of 1 to `longest`, all supervised."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        prompt, chosen, rejected = random.integers(1, longest, 3).tolist()
        tokens = random.integers(0, WORDS, prompt + chosen + rejected).astype(np.int32)
        supervised = np.arange(len(tokens)) >= prompt
        made.append(TokenRow(tokens, supervised, (prompt, prompt + chosen)))
    return TokenizedData.of_rows(made, [(0, at + 1) for at in range(rows)], ["pairs.jsonl"])
