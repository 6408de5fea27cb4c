"""The plan's layout, and every wrong argument of `decoder_step` as an error that names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from native_ops.decoder_plan import (
    LAYER_MATRICES,
    LAYER_VECTORS,
    MODEL_MATRICES,
    MODEL_VECTORS,
    DecoderLayout,
    DecoderShape,
    DecoderWeights,
    rotary_tables,
    slot_elements,
)
from tests.unit.native_ops.decoder_models import LLAMA, Model, random_model
from tests.unit.native_ops.operator_arguments import (
    IMPLEMENTATIONS,
    good,
    implementation,
    int32,
)

Step = Callable[..., torch.Tensor]
HEADER = 16
MODEL_NUMBERS = 3 * len(MODEL_MATRICES) + len(MODEL_VECTORS)
FIRST_LAYER = HEADER + MODEL_NUMBERS
MODEL = random_model(LLAMA, "F32")


def arguments(**changes: Any) -> tuple[Any, ...]:
    """Those of a step of 5 and 2 tokens, with some exchanged."""
    return tuple({**good("decoder_step"), **changes}.values())


@pytest.fixture(params=IMPLEMENTATIONS)
def step(request: pytest.FixtureRequest) -> Step:
    return implementation(request.param, "decoder_step")


def changed(values: torch.Tensor, **places: int) -> torch.Tensor:
    """A copy with `_3=7` meaning element 3 is 7."""
    copy = values.clone()
    for place, value in places.items():
        copy[int(place[1:])] = value
    return copy


SEVEN = int32(*range(7))
WRONG_STEPS: dict[str, dict[str, Any]] = {
    "weights must be uint8; it is int8": {"weights": MODEL.weights.view(torch.int8)},
    "plan must be int64; it is int32": {"plan": MODEL.plan.int()},
    "cache must be float16; it is float32": {"cache": MODEL.cache().float()},
    "tokens must be int32; it is int64": {"tokens": SEVEN.long()},
    "slots must be int32; it is int64": {"slots": SEVEN.long()},
    "logit_rows must be int32; it is int64": {"logit_rows": SEVEN.long()},
    "positions must have 1 dimensions": {"positions": SEVEN[None]},
    "positions must have 7 in dimension 0": {"positions": SEVEN[:6]},
    "slots must have 7 in dimension 0": {"slots": SEVEN[:6]},
    "weights and cache must be contiguous": {"cache": torch.zeros(10, dtype=torch.float16)[::2]},
    "tokens must be from 0 to 106; element 2 is 107": {"tokens": changed(SEVEN, _2=107)},
    "tokens must be from 0 to 106; element 0 is -1": {"tokens": changed(SEVEN, _0=-1)},
    "positions must be from 0 to 299; element 4 is 300": {
        "positions": int32(296, 297, 298, 299, 300, 0, 1)
    },
    "positions must rise by one in a slot; elements 1 and 2 are 1 and 3": {
        "positions": int32(0, 1, 3, 4, 5, 0, 1)
    },
    "slots must be from 0 to 2; element 6 is 3": {"slots": int32(0, 0, 0, 0, 0, 1, 3)},
    "slots must have their tokens together; slot 0 comes again at element 6": {
        "slots": int32(0, 0, 0, 0, 0, 1, 0)
    },
    "logit_rows must be from 0 to 6; element 1 is 7": {"logit_rows": int32(3, 7)},
    "logit_rows must rise; elements 0 and 1 are 3 and 3": {"logit_rows": int32(3, 3)},
    "vocabulary must be the plan's 107; it is 108": {"vocabulary": 108},
    "cache must have": {"cache": MODEL.cache()[:-1]},
}
EMPTY: dict[str, Any] = dict.fromkeys(("tokens", "positions", "slots", "logit_rows"), SEVEN[:0])


def refused(step: Step, match: str, **changes: Any) -> None:
    """The step is refused, and nothing was written."""
    given = arguments(**changes)
    before = given[2].clone()
    with pytest.raises(RuntimeError, match=f"^ironcliw::decoder_step: {re.escape(match)}"):
        step(*given)
    assert torch.equal(given[2], before)


@pytest.mark.parametrize("match", WRONG_STEPS)
def test_a_wrong_argument_is_named(step: Step, match: str) -> None:
    refused(step, match, **WRONG_STEPS[match])


def test_a_step_without_tokens_is_refused(step: Step) -> None:
    refused(step, "tokens must have an element", **EMPTY)


WRONG_NUMBERS = {
    "plan must have version 1; it is 2": (0, 2),
    "plan must have the normalization from 0 to 1; it is 2": (1, 2),
    "plan must have the activation from 0 to 3; it is -1": (2, -1),
    "plan must have the heads from 1 to 4096; it is 0": (5, 0),
    "plan must have heads that are a multiple": (6, 3),
    "plan must have the width of a head from 1 to 256; it is 1000": (7, 1000),
    "plan must have the inner width from 1": (8, 1 << 40),
    "plan must have embedding inside the weights": (10, 1 << 24),
    "plan must have slots of": (11, 1 << 20),
    "cache must have": (12, 4),
    "plan must have a finite epsilon": (13, 0x7FC00000),
    "plan must have a finite factor of scores": (14, 0xFF800000),
    "plan must have the offset of embedding a multiple of 64": (HEADER, 8),
    "plan must have a known format for embedding; it is 77": (HEADER + 1, 77),
    "embedding has 64 columns; its format in the plan must have a multiple of 256": (
        HEADER + 1,
        12,
    ),
    "plan must have 1 or 2 planes for embedding; it is 3": (HEADER + 2, 3),
    "plan must have head; its offset is -1": (HEADER + 3, -1),
    "plan must have norm; its offset is -1": (HEADER + 9, -1),
    "plan must have both rotary.cosine and rotary.sine": (HEADER + 11, -1),
    "plan must have query inside the weights": (FIRST_LAYER, 1 << 62),
    "plan must have query, key, value, output, up and down": (FIRST_LAYER + 3, -1),
    "plan must have gate in every layer of a gated model": (FIRST_LAYER + 12, -1),
    "plan must have attention_norm; its offset is -1": (FIRST_LAYER + 21, -1),
    "plan must have the offset of down.bias a multiple of 64 from 0; it is -2": (
        FIRST_LAYER + 3 * len(LAYER_MATRICES) + len(LAYER_VECTORS) - 1,
        -2,
    ),
}


@pytest.mark.parametrize("match", WRONG_NUMBERS)
def test_a_wrong_plan_is_named(step: Step, match: str) -> None:
    place, value = WRONG_NUMBERS[match]
    plan = MODEL.plan.clone()
    plan[place] = value
    refused(step, match, plan=plan)


def test_a_plan_of_another_length_is_refused(step: Step) -> None:
    refused(step, "plan must have more than its 40 numbers", plan=MODEL.plan[:40])
    refused(step, "plan must have more than its 0 numbers", plan=MODEL.plan[:0])
    longer = torch.cat((MODEL.plan, MODEL.plan[:1]))
    refused(step, f"plan must have {len(MODEL.plan)} numbers", plan=longer)


def test_weights_at_an_odd_address_are_refused(step: Step) -> None:
    moved = torch.cat((torch.zeros(1, dtype=torch.uint8), MODEL.weights))[1:]
    refused(step, "weights must start at a multiple of 4 bytes", weights=moved)


def damaged(generator: torch.Generator) -> torch.Tensor:
    extremes = torch.tensor([-(1 << 63), -2, -1, 0, 1, 64, 1 << 31, 1 << 62, (1 << 63) - 1])
    plan = MODEL.plan.clone()
    place = int(torch.randint(len(plan), (1,), generator=generator))
    plan[place] = extremes[int(torch.randint(len(extremes), (1,), generator=generator))]
    return plan


def test_random_damage_never_reads_outside_and_is_refused_by_both_in_the_same_words() -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(300):
        plan, results = damaged(generator), []
        for which in IMPLEMENTATIONS:
            try:
                logits = implementation(which, "decoder_step")(*arguments(plan=plan))
            except RuntimeError as error:
                results.append(str(error))
                assert "ironcliw::decoder_step: " in str(error)
            else:
                results.append(str(logits.shape))
                assert logits.shape == (7, LLAMA.vocabulary)
        # the compiled one calls the weight and the bias of a norm by the norm's name
        rules = [re.sub(r"norm\.(weight|bias)", "norm", text) for text in results]
        assert rules[0].partition("; it is ")[0] == rules[1].partition("; it is ")[0]


def test_slots_may_be_further_apart_than_they_must(step: Step) -> None:
    plan, more = MODEL.plan.clone(), 8192
    plan[15] += more
    cache = torch.zeros(int(plan[12] * plan[15]), dtype=torch.float16)
    wide, narrow = arguments(plan=plan, cache=cache), arguments()
    assert torch.equal(step(*wide), step(*narrow))
    apart, near = (given[2].view(3, -1) for given in (wide, narrow))
    assert torch.equal(apart[:, :-more], near)
    assert not apart[:, -more:].any()


def test_parts_stand_apart_at_multiples_of_64() -> None:
    layout = DecoderLayout(LLAMA)
    layout.matrix("embedding", 0, 107 * 64 * 4)
    layout.vector("norm.weight")
    layout.vector("layers.1.query.bias")
    layout.tie("head", "embedding", planes=2)
    offsets = [layout.parts[name].offset for name in ("embedding", "norm.weight", "head")]
    assert offsets == [0, 107 * 64 * 4, 0]
    assert layout.parts["head"].planes == 2
    assert layout.nbytes == 107 * 64 * 4 + 256 + 256
    weights = DecoderWeights(layout)
    weights.write("embedding", torch.ones(107, 64))
    assert weights.missing == ["layers.1.query.bias", "norm.weight"]
    weights.write("norm.weight", torch.full((64,), 2.0))
    assert (weights.bytes.view(torch.float32)[107 * 64 : 107 * 64 + 64] == 2).all()
    with pytest.raises(ValueError, match=r"the part 'norm.weight' has 256 bytes; 260 were given"):
        weights.write("norm.weight", torch.zeros(65))


def test_unknown_parts_are_refused() -> None:
    layout = DecoderLayout(LLAMA)
    with pytest.raises(ValueError, match=r"no matrix 'layers.0.norm.weight'"):
        layout.matrix("layers.0.norm.weight", 0, 64)
    with pytest.raises(ValueError, match=r"no vector 'head'"):
        layout.vector("head")
    layout.vector("norm.weight")
    with pytest.raises(ValueError, match=r"'norm.weight' was declared twice"):
        layout.vector("norm.weight")


def test_a_slot_has_pages_of_its_own() -> None:
    assert slot_elements(LLAMA) * 2 % 16384 == 0
    # 2 layers, 2 heads, 304 positions of 16 + 16 numbers
    assert slot_elements(LLAMA) >= 2 * 2 * 304 * 32


def test_rotary_tables_turn_by_position_times_frequency() -> None:
    cosine, sine = rotary_tables(torch.tensor([1.0, 0.01]), 3)
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.01], [2.0, 0.02]])
    assert torch.allclose(cosine, angles.cos())
    assert torch.allclose(sine, angles.sin())


def test_sizes_follow_the_shape() -> None:
    shape = DecoderShape(64, 4, 2, 16, 96, 2, 107, 300, 1e-5)
    assert shape.matrix_size("value") == (32, 64)
    assert shape.matrix_size("output") == (64, 64)
    assert shape.vector_size("value.bias") == 32
    assert shape.vector_size("attention_norm.bias") == 64
    assert shape.vector_size("rotary.sine") == 300 * 8
    assert shape.scale == 0.25
    assert isinstance(random_model(shape, "F32"), Model)
