"""Decoders against transformers: the same logits however a sequence is cut, mixed and moved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
from serve.engines.decoders.load import load_decoder
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
        chosen = {"device": "cpu", "precision": "float32", "slots": 4, **options}
        return load_decoder(self.folder, **chosen)

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


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp(request.param))


def make_case(kind: str, path: Path) -> Case:
    config = CONFIGS[kind]
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(7)
    model = loader.from_config(config).eval()
    for name, parameter in model.named_parameters():
        # norms and biases away from 1 and 0, weights large enough for a wrong one to show
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
        else:
            torch.nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 1.0, 0.3)
    model.save_pretrained(path)
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


def test_logits_equal_transformers(case: Case) -> None:
    tokens = case.sequence(37)
    decoder = case.decoder()
    case.begin(decoder, 1)
    logits = decoder.forward(step((1, 0, tokens)))
    assert logits.dtype == np.float32
    assert logits.shape == (37, decoder.vocabulary)
    np.testing.assert_allclose(logits, case.reference(tokens), atol=1e-4)


def test_rows_are_those_asked_for(case: Case) -> None:
    tokens = case.sequence(20)
    decoder = case.decoder()
    case.begin(decoder, 0)
    whole = step((0, 0, tokens))
    some = np.array([4, 19], np.int32)
    logits = decoder.forward(Step(whole.tokens, whole.positions, whole.slots, some))
    np.testing.assert_allclose(logits, case.reference(tokens)[[4, 19]], atol=1e-4)
    none = decoder.forward(Step(whole.tokens, whole.positions, whole.slots, some[:0]))
    assert none.shape == (0, decoder.vocabulary)


def test_greedy_text_equals_generate(case: Case) -> None:
    decoder = case.decoder()
    case.begin(decoder, 0)
    prompt = case.sequence(1 if case.folder.seq2seq else 9)
    tokens = prompt
    logits = decoder.forward(step((0, 0, prompt)))[-1]
    for _ in range(20):
        tokens = np.append(tokens, np.int32(logits.argmax()))
        logits = decoder.forward(step((0, len(tokens) - 1, tokens[-1:])))[0]
    given = case.source() if case.folder.seq2seq else prompt
    inputs = torch.from_numpy(given.astype(np.int64))[None]
    case.model.generation_config.eos_token_id = None  # all 20, whatever they are
    expected = case.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=20,
        pad_token_id=0,
    )
    assert tokens.tolist() == expected[0].tolist()


def test_chunks_and_single_tokens_equal_one_call(case: Case) -> None:
    tokens = case.sequence(33)
    decoder = case.decoder()
    for slot in range(3):
        case.begin(decoder, slot)
    whole = decoder.forward(step((0, 0, tokens)))
    chunks = [(0, 7), (7, 8), (8, 30), (30, 33)]
    cut = [decoder.forward(step((1, a, tokens[a:b]))) for a, b in chunks]
    single = [decoder.forward(step((2, i, tokens[i : i + 1]))) for i in range(33)]
    np.testing.assert_allclose(np.concatenate(cut), whole, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(single), whole, atol=1e-5)


def test_sequences_in_one_step_do_not_see_each_other(case: Case) -> None:
    """Decoding slots, a chunk of a prompt and a new prompt, in no order of slots."""
    lengths = (20, 25, 12, 30)
    tokens = [case.sequence(length, seed) for seed, length in enumerate(lengths)]
    decoder = case.decoder()
    for slot in range(4):
        case.begin(decoder, slot, seed=slot)
    held = (19, 24, 5, 0)
    for slot in (0, 1, 2):
        decoder.forward(step((slot, 0, tokens[slot][: held[slot]])))
    order = (3, 1, 0, 2)
    logits = decoder.forward(step(*((s, held[s], tokens[s][held[s] :]) for s in order)))
    expected = [case.reference(tokens[s], seed=s)[held[s] :] for s in order]
    np.testing.assert_allclose(logits, np.concatenate(expected), atol=1e-4)


def test_slots_of_different_lengths_decode_together(case: Case) -> None:
    lengths = (40, 3, 17, 28)
    tokens = [case.sequence(length, seed) for seed, length in enumerate(lengths)]
    decoder = case.decoder()
    for slot in range(4):
        case.begin(decoder, slot, seed=slot)
        decoder.forward(step((slot, 0, tokens[slot][:-2])))
    for back in (2, 1):
        parts = [(s, len(t) - back, t[len(t) - back :][:1]) for s, t in enumerate(tokens)]
        logits = decoder.forward(step(*parts))
        expected = [case.reference(t, seed=s)[len(t) - back] for s, t in enumerate(tokens)]
        np.testing.assert_allclose(logits, np.stack(expected), atol=1e-4)


def test_a_freed_slot_starts_anew(case: Case) -> None:
    decoder = case.decoder(slots=1)
    case.begin(decoder, 0, seed=1)
    decoder.forward(step((0, 0, case.sequence(40, seed=1))))
    decoder.free(0)
    tokens = case.sequence(15)
    case.begin(decoder, 0)
    logits = decoder.forward(step((0, 0, tokens)))
    np.testing.assert_allclose(logits, case.reference(tokens), atol=1e-4)


def test_a_lower_position_forgets_what_follows(case: Case) -> None:
    decoder = case.decoder()
    case.begin(decoder, 2)
    tokens = case.sequence(30)
    decoder.forward(step((2, 0, np.concatenate((tokens[:10], case.sequence(25, seed=3))))))
    logits = decoder.forward(step((2, 10, tokens[10:])))
    np.testing.assert_allclose(logits, case.reference(tokens)[10:], atol=1e-4)


def test_bfloat16_agrees_where_the_answer_is_clear(case: Case) -> None:
    tokens = case.sequence(60)
    decoder = case.decoder(precision="bfloat16")
    assert decoder.precision == "bfloat16"
    case.begin(decoder, 0)
    logits = decoder.forward(step((0, 0, tokens)))
    exact = case.reference(tokens)
    first, second = np.sort(exact, axis=1)[:, [-1, -2]].T
    clear = first - second > 0.25 * exact.std()
    assert clear.sum() >= 10
    assert (logits.argmax(1) == exact.argmax(1))[clear].all()
    assert np.sqrt(np.mean((logits - exact) ** 2)) < 0.1 * exact.std()


@pytest.mark.parametrize(("quantization", "error"), [("8bit", 0.1), ("4bit", 0.6)])
def test_quantized_layers_stay_close(case: Case, quantization: str, error: float) -> None:
    tokens = case.sequence(40)
    decoder = case.decoder(quantization=quantization)
    assert decoder.precision == quantization
    assert decoder.resident_bytes < case.decoder().resident_bytes
    case.begin(decoder, 0)
    logits, exact = decoder.forward(step((0, 0, tokens))), case.reference(tokens)
    difference = np.sqrt(np.mean((logits - exact) ** 2)) / exact.std()
    assert 0 < difference < error
