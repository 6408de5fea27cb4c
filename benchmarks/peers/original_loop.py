"""The embedding code of the project's original document: one text a call, fp32, mean pooling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.child import Embed


def build(model: Path, threads: int) -> Embed:
    """The document's `batch_embed`, which is a loop over `generate_embedding`."""
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    encoder = AutoModel.from_pretrained(str(model), dtype=torch.float32).eval()

    def generate_embedding(text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        inputs = tokenizer(text, return_tensors="pt", padding=True, truncation=True, max_length=256)
        with torch.no_grad():
            hidden = encoder(**inputs).last_hidden_state
        vector = hidden.mean(dim=1)[0]
        return np.asarray(torch.nn.functional.normalize(vector, dim=0).numpy())

    return lambda texts: np.stack([generate_embedding(text) for text in texts])
