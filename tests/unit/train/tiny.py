"""A decoder of a few thousand weights, made on the spot, and data for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from ironcliw.settings import Settings
from train.config import TrainingConfig, make_config
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.job import Job

WORDS = 64


def make_model(folder: Path, kind: str = "llama", seed: int = 0, tied: bool = True) -> Path:
    """Random weights in Hugging Face's format."""
    import transformers

    torch.manual_seed(seed)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=WORDS, n_positions=256, n_embd=32, n_layer=2, n_head=4
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        made = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
        config = getattr(transformers, f"{made}Config")(
            vocab_size=WORDS,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
        )
        model = getattr(transformers, f"{made}ForCausalLM")(config)
    model.save_pretrained(folder)
    return folder


def make_data(rows: int = 24, seed: int = 0, longest: int = 30) -> TokenizedData:
    """Rows of random tokens, the second half of each supervised."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        length = int(random.integers(4, longest))
        tokens = random.integers(0, WORDS, length).astype(np.int32)
        made.append(TokenRow(tokens, np.arange(length) >= length // 2))
    sources = [(0, number + 1) for number in range(rows)]
    return TokenizedData.of_rows(made, sources, ["rows.jsonl"])


def make_job(folder: Path, model: Path, **changes: object) -> Job:
    """A run of a few steps on one thread."""
    given = {
        "model_name": str(model),
        "precision": "fp32",
        "batch_size": 6,
        "micro_batch_tokens": 64,
        "num_epochs": 2,
        "lora_rank": 4,
        "learning_rate": 1e-2,
        "checkpoint": {"every": 1},
        **changes,
    }
    config: TrainingConfig = make_config(json.loads(json.dumps(given)), "test")
    return Job(
        config, Settings(state_dir=folder / "state"), str(folder / "run"), make_data(), None, 1
    )
