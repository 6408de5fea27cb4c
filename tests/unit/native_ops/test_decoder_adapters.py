"""Adapters in the fused decoder step: right, and the same bits in whatever company."""

from __future__ import annotations

import re

import pytest
import torch

from native_ops.decoder import decoder_step
from native_ops.decoder_adapters import LowRank, PackedAdapter, pack_adapter
from native_ops.decoder_plan import DecoderShape
from native_ops.decoder_reference import decoder_step_reference
from tests.unit.native_ops.decoder_models import (
    GPT2,
    LLAMA,
    NO_ADAPTERS,
    QWEN3,
    SLOTS,
    Model,
    Tokens,
    random_adapter,
    random_model,
    tokens_of,
)
from tests.unit.native_ops.operator_arguments import IMPLEMENTATIONS, good, implementation

NONE = -1


def run(
    model: Model,
    tokens: Tokens,
    adapters: list[PackedAdapter],
    of_slot: list[int],
    cache: torch.Tensor | None = None,
    rows: list[int] | None = None,
) -> torch.Tensor:
    """Logits where each slot is under one of the adapters, or none."""
    cache = model.cache() if cache is None else cache
    owners = [of_slot[slot] for slot in tokens.slots] if adapters else []
    row_adapters = torch.tensor(owners, dtype=torch.int32)
    logits: torch.Tensor = decoder_step(
        model.weights,
        model.plan,
        cache,
        *tokens.tensors(rows),
        model.shape.vocabulary,
        [adapter.weights for adapter in adapters],
        [adapter.plan for adapter in adapters],
        row_adapters,
    )
    return logits


def three(shape: DecoderShape) -> list[PackedAdapter]:
    """Of different ranks, targets and precisions."""
    return [
        random_adapter(shape, 4),
        random_adapter(shape, 64, dtype=torch.bfloat16, seed=1),
        random_adapter(shape, 17, targets=("query", "down"), seed=2),
    ]


def of_slot(tokens: Tokens, slot: int) -> list[int]:
    return [place for place, each in enumerate(tokens.slots) if each == slot]


@pytest.mark.parametrize(
    ("shape", "kind"), [(LLAMA, "F32"), (QWEN3, "BF16"), (GPT2, "F32"), (LLAMA, "Q4_1")]
)
@pytest.mark.parametrize("lengths", [[40, 3, 60], [1, 1, 1]])
def test_it_agrees_with_the_reference(
    level: str, shape: DecoderShape, kind: str, lengths: list[int]
) -> None:
    model, adapters = random_model(shape, kind, planes=2), three(shape)
    tokens = tokens_of(lengths, shape.vocabulary)
    rows = torch.tensor([(1, NONE, 0)[slot] for slot in tokens.slots], dtype=torch.int32)
    expected = decoder_step_reference(
        model.weights,
        model.plan,
        model.cache(),
        *tokens.tensors(),
        shape.vocabulary,
        [adapter.weights for adapter in adapters],
        [adapter.plan for adapter in adapters],
        rows,
    )
    found = run(model, tokens, adapters, [1, NONE, 0])
    error = (found - expected).square().mean().sqrt() / expected.std()
    assert error < (2e-2 if kind == "Q4_1" else 5e-3)


def test_a_row_without_an_adapter_is_the_bases(level: str) -> None:
    model, tokens = random_model(LLAMA, "F32"), tokens_of([9, 5], LLAMA.vocabulary)
    adapter = random_adapter(LLAMA, 4)
    base = run(model, tokens, [], [])
    found = run(model, tokens, [adapter], [0, NONE])
    second = of_slot(tokens, 1)
    assert torch.equal(found[second], base[second])
    assert not torch.allclose(found[of_slot(tokens, 0)], base[of_slot(tokens, 0)], atol=0.1)


@pytest.mark.parametrize("kind", ["F32", "Q4_1"])
def test_a_row_has_the_same_bits_alone_and_in_company(level: str, kind: str) -> None:
    torch.set_num_threads(2)
    model, adapters = random_model(LLAMA, kind, planes=2), three(LLAMA)
    tokens = tokens_of([33, 70, 12], LLAMA.vocabulary)
    owners = [2, 0, 1]
    together = run(model, tokens, adapters, owners)
    for slot in range(SLOTS):
        places = of_slot(tokens, slot)
        alone = Tokens(*([column[p] for p in places] for column in
                         (tokens.ids, tokens.positions, tokens.slots)))  # fmt: skip
        mine = [NONE] * SLOTS
        mine[slot] = 0
        assert torch.equal(run(model, alone, [adapters[owners[slot]]], mine), together[places])


def test_single_tokens_give_the_bits_of_the_whole_prompt(level: str) -> None:
    model, adapters = random_model(LLAMA, "Q4_1", planes=2), three(LLAMA)
    tokens = tokens_of([24, 24, 24], LLAMA.vocabulary)
    owners = [1, NONE, 0]
    whole = run(model, tokens, adapters, owners)
    cache = model.cache()
    for position in range(24):
        places = [slot * 24 + position for slot in range(SLOTS)]
        step = Tokens([tokens.ids[p] for p in places], [position] * SLOTS, list(range(SLOTS)))
        assert torch.equal(run(model, step, adapters, owners, cache), whole[places])


def test_only_the_last_tokens_logits_are_those_of_all(level: str) -> None:
    # the last layer computes the wanted rows alone, moved to the front
    model, adapters = random_model(LLAMA, "F32"), three(LLAMA)
    tokens = tokens_of([20, 30, 10], LLAMA.vocabulary)
    whole = run(model, tokens, adapters, [0, 1, 2])
    assert torch.equal(
        run(model, tokens, adapters, [0, 1, 2], rows=[19, 49, 59]), whole[[19, 49, 59]]
    )


def test_a_slot_remembers_nothing_of_the_adapter_before() -> None:
    model, adapters = random_model(LLAMA, "F32"), three(LLAMA)
    tokens, cache = tokens_of([20], LLAMA.vocabulary), model.cache()
    run(model, tokens, adapters, [1], cache)
    fresh = run(model, tokens, adapters, [0])
    assert torch.equal(run(model, tokens, adapters, [0], cache), fresh)


def test_no_adapters_cost_no_bits() -> None:
    model, tokens = random_model(LLAMA, "F32"), tokens_of([9, 5], LLAMA.vocabulary)
    parts = (model.weights, model.plan, model.cache(), *tokens.tensors(), LLAMA.vocabulary)
    plain = decoder_step(*parts, *NO_ADAPTERS)
    assert torch.equal(run(model, tokens, three(LLAMA), [NONE, NONE]), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: 2}, "version 1; it is 2"),
        ({1: 7}, "the format of float32 or bfloat16; it is 7"),
        ({2: 3}, "the model's 2 layers in 59 numbers; they have 3 in 59"),
        ({3: -1}, "ranks of query from 0 to 1024; they are -1"),
        ({3: 1025}, "ranks of query from 0 to 1024; they are 1025"),
        ({4: 0x7F800000}, "a finite scale of query; its bits are 2139095040"),
        ({4: -1}, "a finite scale of query; its bits are -1"),
        ({5: 3}, "query inside the adapter's"),
        ({6: 1 << 40}, "query inside the adapter's"),
        ({6: -64}, "query inside the adapter's"),
    ],
)
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_a_plan_that_lies_is_refused(which: str, change: dict[int, int], message: str) -> None:
    arguments = good("decoder_step")
    plan = arguments["adapter_plans"][0].clone()
    for at, value in change.items():
        plan[at] = value
    arguments["adapter_plans"] = [plan, arguments["adapter_plans"][1]]
    text = f"ironcliw::decoder_step: adapter_plans must have {message}"
    with pytest.raises(RuntimeError, match=re.escape(text)):
        implementation(which, "decoder_step")(*arguments.values())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layers.2.query", LowRank(torch.ones(1, 64), torch.ones(64, 1), 1), "has no matrix"),
        ("layers.0.query", LowRank(torch.ones(1, 63), torch.ones(64, 1), 1), r"shape \[1, 63\]"),
        ("layers.0.query", LowRank(torch.ones(1, 64), torch.ones(64, 2), 1), r"shape \[64, 2\]"),
        ("layers.0.query", LowRank(torch.ones(0, 64), torch.ones(64, 0), 1), "has rank 0"),
        (
            "layers.0.query",
            LowRank(torch.full((1, 64), torch.nan), torch.ones(64, 1), 1),
            "A of layers.0.query holds a number that is not finite",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(name: str, change: LowRank, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_adapter(LLAMA, {name: change}, torch.float32)


def test_a_gate_that_the_model_lacks_is_refused() -> None:
    change = LowRank(torch.ones(1, 48), torch.ones(80, 1), 1)
    with pytest.raises(ValueError, match=r"no matrix 'layers\.0\.gate'"):
        pack_adapter(GPT2, {"layers.0.gate": change}, torch.float32)
