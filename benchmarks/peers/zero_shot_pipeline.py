"""The transformers zero-shot pipeline as its documentation shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from benchmarks.child import Embed
from benchmarks.peers.zero_shot_work import unpack


def build_fp32(folder: Path, threads: int) -> Embed:
    """As documented: float32, one pair of text and label a forward pass."""
    return _build(folder, threads, torch.float32, {})


def build_bf16(folder: Path, threads: int) -> Embed:
    """In bfloat16, all labels of a text in one forward pass: the fastest it can be told to be."""
    return _build(folder, threads, torch.bfloat16, {"batch_size": 20})


def _build(folder: Path, threads: int, dtype: torch.dtype, options: dict[str, Any]) -> Embed:
    torch.set_num_threads(threads)
    classifier: Any = pipeline(
        "zero-shot-classification", model=str(folder), device="cpu", dtype=dtype, **options
    )

    def classify(texts: list[str]) -> object:
        scores = []
        for text, labels in unpack(texts):
            answer = classifier(text, labels)
            by_label = dict(zip(answer["labels"], answer["scores"], strict=True))
            scores.append([by_label[label] for label in labels])
        return np.asarray(scores, np.float32)

    return classify
