"""Torch's decoders against transformers: the same logits however a sequence is cut and mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serve.generation.protocol import Step
from tests.unit.serve.decoders.small_models import CONFIGS, Case, make_case, step


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp(request.param))


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
