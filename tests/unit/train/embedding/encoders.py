"""Encoders of a few thousand weights with the words w4 to w63, and texts for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ironcliw.settings import Settings
from train.config import make_config
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.job import Job

WORDS = 64
_SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def make_encoder(
    folder: Path, kind: str = "bert", pooling: str = "mean", more: tuple[str, ...] = ("Normalize",)
) -> Path:
    """Random weights as sentence-transformers lays them out."""
    torch.manual_seed(0)
    if kind == "distilbert":
        config: Any = transformers.DistilBertConfig(
            vocab_size=WORDS, dim=32, n_layers=2, n_heads=4, hidden_dim=48
        )
        model: Any = transformers.DistilBertModel(config)
    else:
        name = {"bert": "Bert", "roberta": "Roberta"}[kind]
        config = getattr(transformers, f"{name}Config")(**_SIZES)
        model = getattr(transformers, f"{name}Model")(config)
    with torch.no_grad():
        # biases of zero and norms of one would hide a mix-up
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [(f"{at}_{each}", each) for at, each in enumerate(more, 2)]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{each}"}
        for at, (path, each) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    _tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer() -> Any:
    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    words = special | {f"w{at}": at for at in range(4, WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def grouped(*rows: list[list[int]], labelled: bool = False) -> TokenizedData:
    """Rows of texts, each a list of tokens."""
    made = []
    for texts in rows:
        tokens = np.array([token for text in texts for token in text], np.int32)
        starts = np.cumsum([0, *(len(text) for text in texts[:-1])]).tolist()
        mask = np.zeros(len(tokens), np.bool_)
        made.append(TokenRow(tokens, mask, None, tuple(starts), labelled))
    return TokenizedData.of_rows(made, [(0, at + 1) for at in range(len(rows))], ["texts.jsonl"])


def labelled_texts(rows: int = 24, labels: int = 4, seed: int = 0) -> TokenizedData:
    """Texts of random words, of which one word tells the label."""
    random = np.random.default_rng(seed)
    made = []
    for at in range(rows):
        label = at % labels
        words = random.integers(10, WORDS, int(random.integers(2, 9))).tolist()
        made.append([[2, 4 + label, *words, 3], [2, 4 + label, 3]])
    return grouped(*made, labelled=True)


def embed_job(folder: Path, model: Path, data: TokenizedData | None = None, **changes: Any) -> Job:
    """A run of a few steps on one thread."""
    given = {
        "model_name": str(model),
        "precision": "fp32",
        "batch_size": 8,
        "micro_batch_tokens": 40,
        "num_epochs": 2,
        "lora_rank": 4,
        "learning_rate": 1e-2,
        "checkpoint": {"every": 1},
        "embedding": {},
        **changes,
    }
    config = make_config(given, "test")
    settings = Settings(state_dir=folder / "state")
    texts = labelled_texts() if data is None else data
    return Job(config, settings, str(folder / "run"), texts, labelled_texts(12, seed=1), 1)
