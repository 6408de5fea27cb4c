"""The fused decoder step: against its reference, and the same bits however tokens are cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops.decoder import decoder_step
from native_ops.decoder_plan import DecoderShape
from native_ops.decoder_reference import decoder_step_reference
from tests.unit.native_ops.decoder_models import (
    GPT2,
    LLAMA,
    NO_ADAPTERS,
    QWEN3,
    SLOTS,
    WIDE,
    Model,
    Tokens,
    logits64,
    random_model,
    tokens_of,
)
from tests.unit.native_ops.levels import on_each_level

SHAPES = {"llama": LLAMA, "qwen3": QWEN3, "gpt2": GPT2, "wide": WIDE}
CASES = [
    ("llama", "F32", 1),
    ("llama", "Q4_1", 1),
    ("llama", "Q4_1", 2),
    ("qwen3", "BF16", 1),
    ("qwen3", "INT8", 2),
    ("gpt2", "F32", 1),
    ("gpt2", "F16", 1),
    ("llama", "Q8_0", 1),
    ("qwen3", "Q4_0", 2),
    ("wide", "Q4_K", 1),
    ("wide", "Q6_K", 2),
]
FLOATS = ("F32", "F16", "BF16")


@pytest.fixture
def two_threads() -> None:
    torch.set_num_threads(2)


def run(
    model: Model, cache: torch.Tensor, tokens: Tokens, rows: list[int] | None = None
) -> torch.Tensor:
    parts = tokens.tensors(rows)
    logits: torch.Tensor = decoder_step(
        model.weights, model.plan, cache, *parts, model.shape.vocabulary, *NO_ADAPTERS
    )
    return logits


def reference(model: Model, tokens: Tokens) -> torch.Tensor:
    parts = tokens.tensors()
    return decoder_step_reference(
        model.weights, model.plan, model.cache(), *parts, model.shape.vocabulary, *NO_ADAPTERS
    )


def in_pieces(model: Model, tokens: Tokens, sizes: Callable[[], int], seed: int) -> torch.Tensor:
    """Each sequence in chunks of `sizes()`, mixed with the others' in a random order of slots."""
    order = random.Random(seed)
    queues: dict[int, list[int]] = {}
    for place, slot in enumerate(tokens.slots):
        queues.setdefault(slot, []).append(place)
    cache, logits = model.cache(), torch.empty(len(tokens.ids), model.shape.vocabulary)
    while any(queues.values()):
        places: list[int] = []
        for slot in order.sample(sorted(queues), len(queues)):
            size = sizes()
            places += queues[slot][:size]
            del queues[slot][:size]
        if places:
            columns = (tokens.ids, tokens.positions, tokens.slots)
            step = Tokens(*([column[place] for place in places] for column in columns))
            logits[places] = run(model, cache, step)
    return logits


@pytest.mark.parametrize(("shape", "kind", "planes"), CASES)
def test_it_agrees_with_the_reference(level: str, shape: str, kind: str, planes: int) -> None:
    model = random_model(SHAPES[shape], kind, planes=planes)
    tokens = tokens_of([140, 1, 17], model.shape.vocabulary)
    logits, expected = run(model, model.cache(), tokens), reference(model, tokens)
    assert error_of(logits, expected) < tolerance(kind, planes)


@pytest.mark.parametrize(("shape", "kind", "planes"), CASES)
def test_it_agrees_with_float64(level: str, shape: str, kind: str, planes: int) -> None:
    model = random_model(SHAPES[shape], kind, planes=planes)
    tokens = tokens_of([130, 1, 17], model.shape.vocabulary)
    expected = logits64(model, tokens)
    assert error_of(run(model, model.cache(), tokens), expected) < tolerance(kind, planes)
    assert error_of(reference(model, tokens), expected) < 2e-3


@settings(max_examples=10, deadline=None)
@given(
    case=st.sampled_from(CASES),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=SLOTS),
    seed=st.integers(0, 1000),
)
def test_any_lengths_agree_with_float64(
    case: tuple[str, str, int], lengths: list[int], seed: int
) -> None:
    shape, kind, planes = case
    model = random_model(SHAPES[shape], kind, planes=planes, seed=seed)
    tokens = tokens_of(lengths, model.shape.vocabulary, seed)
    expected = logits64(model, tokens)
    for found in on_each_level(lambda: run(model, model.cache(), tokens)):
        assert error_of(found, expected) < tolerance(kind, planes)


@pytest.mark.parametrize("length", [1000, 4096])
def test_long_sequences_agree_with_float64(length: int) -> None:
    # scores that single a few positions out: over many alike, no one of them would matter
    shape = DecoderShape(32, 2, 1, 16, 48, 1, 64, 4096, 1e-6, score_scale=0.6)
    model = random_model(shape, "F32")
    tokens = tokens_of([length], shape.vocabulary)
    before = Tokens(tokens.ids[:-1], tokens.positions[:-1], tokens.slots[:-1])
    after = Tokens(tokens.ids[-1:], tokens.positions[-1:], tokens.slots[-1:])

    def together_and_the_last_alone() -> tuple[torch.Tensor, torch.Tensor]:
        cache = model.cache()
        run(model, cache, before, [])
        return run(model, model.cache(), tokens), run(model, cache, after)

    expected = logits64(model, tokens)
    assert error_of(reference(model, tokens), expected) < 2e-3
    for whole, last in on_each_level(together_and_the_last_alone):
        assert error_of(whole, expected) < 2e-3
        assert torch.equal(last[0], whole[-1])


def error_of(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square, as a share of the logits' spread."""
    return float((logits - expected).square().mean().sqrt() / expected.std())


def tolerance(kind: str, planes: int) -> float:
    """Half-precision keys and values, and int8 activations where there is one plane."""
    return 2e-3 if kind in FLOATS else 0.03 if planes == 1 else 4e-3


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("shape", "kind", "planes"), CASES)
def test_bits_do_not_depend_on_how_tokens_are_cut(
    level: str, shape: str, kind: str, planes: int
) -> None:
    model = random_model(SHAPES[shape], kind, planes=planes)
    tokens = tokens_of([140, 17, 40], model.shape.vocabulary)
    whole = run(model, model.cache(), tokens)
    draw = random.Random(1)
    pieces = in_pieces(model, tokens, lambda: draw.choice((0, 1, 2, 9, 33)), seed=2)
    assert torch.equal(pieces, whole)
    alone = Tokens(tokens.ids[:140], list(range(140)), [2] * 140)
    assert torch.equal(in_pieces(model, alone, lambda: 1, seed=3), whole[:140])


@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=SLOTS),
    seed=st.integers(0, 1000),
)
def test_a_sequence_among_others_has_the_bits_it_has_alone(lengths: list[int], seed: int) -> None:
    model = random_model(LLAMA, "F32")
    tokens = tokens_of(lengths, LLAMA.vocabulary, seed)

    def check() -> None:
        together = run(model, model.cache(), tokens)
        begin = 0
        for slot, length in enumerate(lengths):
            end, places = begin + length, list(range(length))
            own = Tokens(tokens.ids[begin:end], places, [SLOTS - 1 - slot] * length)
            assert torch.equal(run(model, model.cache(), own), together[begin:end])
            begin = end

    on_each_level(check)


def test_bits_do_not_depend_on_threads(level: str, two_threads: None) -> None:
    model = random_model(LLAMA, "Q4_1")
    tokens = tokens_of([70, 5, 1], LLAMA.vocabulary)
    both = run(model, model.cache(), tokens)
    torch.set_num_threads(1)
    assert torch.equal(run(model, model.cache(), tokens), both)


def test_only_the_wanted_rows_are_given(level: str) -> None:
    model = random_model(GPT2, "F32")
    tokens = tokens_of([20, 3], GPT2.vocabulary)
    every = run(model, model.cache(), tokens)
    assert torch.equal(run(model, model.cache(), tokens, [4, 19, 22]), every[[4, 19, 22]])
    assert run(model, model.cache(), tokens, []).shape == (0, GPT2.vocabulary)


def test_a_lower_position_takes_back_what_came_after(level: str) -> None:
    model = random_model(LLAMA, "F32")
    cache = model.cache()
    run(model, cache, tokens_of([60], LLAMA.vocabulary, seed=1))
    again = tokens_of([33], LLAMA.vocabulary, seed=2)
    assert torch.equal(run(model, cache, again), run(model, model.cache(), again))


def test_other_slots_are_not_written(level: str) -> None:
    model = random_model(QWEN3, "F32")
    cache = model.cache().fill_(0.5)
    slot = len(cache) // SLOTS
    run(model, cache, Tokens([1, 2], [0, 1], [1, 1]))
    assert (cache[:slot] == 0.5).all()
    assert (cache[2 * slot :] == 0.5).all()
    assert (cache[slot : 2 * slot] != 0.5).any()


def test_nan_stays_in_its_own_sequence(level: str) -> None:
    model = random_model(LLAMA, "F32")
    cache = model.cache()
    tokens = tokens_of([130, 20], LLAMA.vocabulary)
    clean = run(model, cache, tokens)
    slot = len(cache) // SLOTS
    cache[:slot] = torch.nan  # what slot 0 held, also behind its end
    step = Tokens([5, 6], [130, 20], [0, 1])
    after = run(model, cache, step)
    assert after[0].isnan().all()
    other = model.cache()
    assert torch.equal(run(model, other, tokens), clean)
    assert torch.equal(after[1], run(model, other, step)[1])
    # positions from 0 on do not look at what stands behind them
    fresh = tokens_of([40], LLAMA.vocabulary)
    assert torch.equal(run(model, cache, fresh), run(model, model.cache(), fresh))


def test_large_activations_stay_finite(level: str) -> None:
    shape = DecoderShape(64, 4, 2, 16, 96, 1, 107, 64, 1e-5, score_scale=1e4)
    model = random_model(shape, "F32")
    assert run(model, model.cache(), tokens_of([30], 107)).isfinite().all()


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("gated", [True, False])
def test_activations(level: str, activation: Any, gated: bool) -> None:
    shape = DecoderShape(32, 2, 1, 16, 48, 1, 40, 32, 1e-5, activation=activation, gated=gated)
    model, tokens = random_model(shape, "F32"), tokens_of([9], 40)
    logits, expected = run(model, model.cache(), tokens), reference(model, tokens)
    assert torch.allclose(logits, expected, atol=5e-3, rtol=1e-3)
