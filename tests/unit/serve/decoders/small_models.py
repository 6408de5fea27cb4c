"""Random models of every family that decoders compute, small, as transformers writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.load import LoadOptions, load_decoder
from serve.engines.protocol import Tokens
from serve.generation.protocol import Decoder, Logits, Step

VOCABULARY = 90
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_LLAMA, head_dim=12),
    "llama3": LlamaConfig(
        **_LLAMA, rope_parameters=_LLAMA3, tie_word_embeddings=True, attention_bias=True
    ),
    "llama-linear": LlamaConfig(**_LLAMA, rope_parameters=_LINEAR, mlp_bias=True),
    "mistral": MistralConfig(**_LLAMA, sliding_window=None),
    "qwen2": Qwen2Config(**_LLAMA),
    "qwen3": Qwen3Config(**_LLAMA, head_dim=16),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "t5": T5Config(**_T5, feed_forward_proj="relu"),
    "t5-gated": T5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
}


@dataclass(frozen=True)
class Case:
    """A random model, as transformers has it and as a folder."""

    model: Any
    folder: GenerationFolder

    def decoder(self, **options: Any) -> Decoder:
        """In float32 by torch's own operators, unless the options say otherwise."""
        small = {"device": "cpu", "precision": "float32", "slots": 4, "native": False}
        chosen = {**small, **options}
        return load_decoder(self.folder, LoadOptions(**chosen))

    def sequence(self, length: int, seed: int = 0) -> Tokens:
        """Random ids, beginning as the model's sequences do."""
        ids = np.random.default_rng(seed).integers(3, VOCABULARY, length).astype(np.int32)
        if self.folder.start_token is not None:
            ids[0] = self.folder.start_token
        return ids

    def source(self, seed: int = 0) -> Tokens:
        length = 5 + 6 * seed
        return np.random.default_rng(100 + seed).integers(3, 90, length).astype(np.int32)

    def begin(self, decoder: Decoder, slot: int, seed: int = 0) -> None:
        """What must go before the first token; nothing for causal models."""
        if self.folder.seq2seq:
            decoder.begin(slot, self.source(seed))

    def reference(self, tokens: Tokens, seed: int = 0) -> Logits:
        """Logits [N, V] of transformers, all at once."""
        inputs = {"input_ids": torch.from_numpy(tokens.astype(np.int64))[None]}
        if self.folder.seq2seq:
            source = torch.from_numpy(self.source(seed).astype(np.int64))[None]
            inputs = {"input_ids": source, "decoder_input_ids": inputs["input_ids"]}
        with torch.inference_mode():
            logits: Logits = self.model(**inputs).logits[0].float().numpy()
        return logits


def make_case(kind: str, path: Path, dtype: torch.dtype = torch.float32, **sizes: Any) -> Case:
    """A random model of a kind, saved in a precision; its folder's files are in `path`."""
    config = CONFIGS[kind]
    if sizes:
        config = type(config)(**{**config.to_dict(), **sizes})
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(7)
    model = loader.from_config(config).eval()
    for name, parameter in model.named_parameters():
        # norms and biases away from 1 and 0, weights large enough for a wrong one to show
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
        else:
            torch.nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 1.0, 0.3)
    model.to(dtype).save_pretrained(path)
    model.float()
    return Case(model, GenerationFolder.read(path))


def step(*parts: tuple[int, int, Tokens]) -> Step:
    """Parts (slot, first position, tokens), with the logits of every token."""
    sizes = [len(tokens) for _, _, tokens in parts]
    return Step(
        tokens=np.concatenate([tokens for _, _, tokens in parts]),
        positions=np.concatenate([np.arange(p, p + len(t), dtype=np.int32) for _, p, t in parts]),
        slots=np.repeat([slot for slot, _, _ in parts], sizes).astype(np.int32),
        logit_rows=np.arange(sum(sizes), dtype=np.int32),
    )
