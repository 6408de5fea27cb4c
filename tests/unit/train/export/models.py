"""A base with a tokenizer, and adapters of it whose change can be seen."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.unit.train.small_tokenizers import CHATML, SPECIAL


def make_tokenizer() -> Any:
    """Byte-level BPE with a few merges, which splits texts as GPT-2's does."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("a", "n"), ("\u0120", "a")]
    words = [*SPECIAL, *letters, *("".join(pair) for pair in merges)]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def make_base(folder: Path, kind: str = "Llama", seed: int = 0, **changes: Any) -> Path:
    """Random weights and a chat template."""
    import transformers

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "initializer_range": 0.3,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    if kind == "GPT2":
        sizes |= {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    else:
        sizes |= {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        }
    config = getattr(transformers, f"{kind}Config")(**sizes | changes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return folder


def make_adapter(folder: Path, base: Path, **changes: Any) -> Any:
    """A trained adapter as peft saves it; returns peft's model."""
    import peft
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    model = loader.from_pretrained(base)
    is_gpt2 = model.config.model_type == "gpt2"
    lora = peft.LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 8,
            "target_modules": "all-linear",
            "task_type": "CAUSAL_LM",
            "fan_in_fan_out": is_gpt2,
            **changes,
        }
    )
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained: Any = peft.get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
            elif "magnitude" in name:
                parameter.mul_(1.1)
    trained.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an adapter of the embedding
        trained.save_pretrained(folder)
    return trained


def logits(model: Any) -> torch.Tensor:
    """Of a fixed row of tokens."""
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(4, 60)[None]).logits.float()
    return found
