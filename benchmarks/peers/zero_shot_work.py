"""Zero-shot classification by entailment: the model, the texts, and our engine.

The model has BART-large's shape and random weights: what is compared is speed. A text and its
labels travel as one JSON text, so that they pass through `benchmarks.child`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import Embed

TEMPLATE = "This example is {}."
_SPREAD = 20
_START, _PAD, _END = 0, 1, 2  # ids of BART, and of special tokens in the vocabulary that we borrow


def pack(text: str, labels: Sequence[str]) -> str:
    """A text and its labels as one text."""
    return json.dumps([text, list(labels)])


def unpack(texts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What `pack` packed."""
    return [(text, labels) for text, labels in map(json.loads, texts)]


def make_model(folder: Path, tokenizer_file: Path, layers: int, seed: int = 0) -> None:
    """Write a BART of BART-large's width with random weights, and a tokenizer for it.

    Args:
        folder: Where to.
        tokenizer_file: A tokenizer.json with three special tokens first, such as SmolLM2's.
        layers: Of the encoder and of the decoder; 12 is BART-large.
        seed: Of the weights.
    """
    import torch
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BartConfig, BartForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = BartConfig(
        encoder_layers=layers,
        decoder_layers=layers,
        id2label={0: "contradiction", 1: "neutral", 2: "entailment"},
        label2id={"contradiction": 0, "neutral": 1, "entailment": 2},
    )
    model: Any = BartForSequenceClassification(config)
    with torch.no_grad():
        # else every label would have the same probability, whatever rounding does
        model.classification_head.out_proj.weight.mul_(_SPREAD)
    model.to(torch.bfloat16).save_pretrained(folder)
    backend = Tokenizer.from_file(str(tokenizer_file))
    start, pad, end = (str(backend.id_to_token(token)) for token in (_START, _PAD, _END))
    backend.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B:1 {end}:1",
        special_tokens=[(start, _START), (end, _END)],
    )
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=start,
        cls_token=start,
        pad_token=pad,
        eos_token=end,
        sep_token=end,
        model_max_length=1024,
    )
    tokenizer.save_pretrained(folder)


def build(folder: Path, threads: int) -> Embed:
    """Our engine in the precision that it chooses; all labels of a text in one batch."""
    return _build(folder, threads, "auto")


def build_fp32(folder: Path, threads: int) -> Embed:
    """Our engine in float32."""
    return _build(folder, threads, "float32")


def _build(folder: Path, threads: int, precision: str) -> Embed:
    from serve.engines.classifier import load_classifier
    from serve.engines.pair_tokenizer import PairEncoder
    from serve.engines.protocol import PackedTokens

    engine = load_classifier(folder, precision=precision, threads=threads)
    encoder = PairEncoder.load(folder)
    entailment = engine.labels.index("entailment")

    def classify(texts: list[str]) -> object:
        scores = []
        for text, labels in unpack(texts):
            pairs = encoder.pairs(text, [TEMPLATE.format(label) for label in labels])
            logits = engine.classify(PackedTokens.pack([pair.tokens for pair in pairs]))
            weights = np.exp(logits[:, entailment] - logits[:, entailment].max())
            scores.append(weights / weights.sum())
        return np.stack(scores)

    return classify
