"""Adapters in the encoder's operator: right, and the same bits in whatever company.

test_contract.py says what the operator refuses of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops.decoder_adapters import LowRank
from native_ops.encoder import encoder_forward, encoder_forward_reference
from native_ops.encoder_adapters import PARTS, EncoderSizes, pack_encoder_adapter
from tests.unit.native_ops.encoder_models import (
    NUMBERS,
    TOLERANCE,
    Changes,
    Model,
    forward64,
    tokens,
)
from tests.unit.native_ops.levels import REFERENCE, levels
from tests.unit.native_ops.operator_arguments import int32, starts

NONE = -1


def run(
    backend: str,
    model: Model,
    ids: torch.Tensor,
    lengths: Sequence[int],
    adapters: Sequence[Changes] = (),
    under: Sequence[int] = (),
) -> torch.Tensor:
    operator = encoder_forward_reference if backend == REFERENCE else encoder_forward
    packed = [pack_encoder_adapter(model.sizes, each) for each in adapters]
    given = ([each.weights for each in packed], [each.ranks for each in packed], int32(*under))
    result: torch.Tensor = operator(ids, starts([*lengths]), *model.arguments(), *given)
    return result


def expected(
    model: Model,
    ids: torch.Tensor,
    lengths: Sequence[int],
    adapters: Sequence[Changes],
    under: Sequence[int],
) -> torch.Tensor:
    changes: list[Changes] = [adapters[number] if number != NONE else {} for number in under]
    return forward64(ids, [*lengths], *model.arguments(), changes=changes)


def three(model: Model) -> list[Changes]:
    """Of different ranks and parts."""
    return [
        model.changes(16),
        model.changes(33, seed=1),
        model.changes(5, seed=2, parts=("key", "down")),
    ]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("width", "heads", "inner"), [(64, 2, 96), (24, 3, 50), (1, 1, 1)])
@pytest.mark.parametrize("lengths", [[3, 50, 1, 17, 40], [1, 600, 2, 31, 33]])
def test_against_float64(
    backend: str, number: str, width: int, heads: int, inner: int, lengths: list[int]
) -> None:
    model, under = Model(width, heads, inner, number), [1, 0, NONE, 0, 2]
    ids, adapters = tokens(sum(lengths)), three(model)
    found = run(backend, model, ids, lengths, adapters, under)
    wanted = expected(model, ids, lengths, adapters, under)
    tolerance = TOLERANCE[number]
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)
    plain = run(backend, model, ids, lengths)
    assert (found - plain).abs().amax() > 2 * tolerance or width == 1


TEXTS = st.lists(st.tuples(st.integers(1, 70), st.integers(NONE, 3)), min_size=1, max_size=12)
RANKS = st.lists(st.integers(1, 70), min_size=4, max_size=4)
PARTS_OF_EACH = st.lists(st.sets(st.sampled_from(PARTS)).map(sorted), min_size=4, max_size=4)


@settings(max_examples=25, deadline=None)
@given(TEXTS, RANKS, PARTS_OF_EACH, st.sampled_from(NUMBERS), st.integers(1, 80))
def test_any_texts_under_any_adapters(
    texts: list[tuple[int, int]], ranks: list[int], parts: list[list[str]], number: str, inner: int
) -> None:
    model = Model(40, 5, inner, number)
    lengths, under = [list(each) for each in zip(*texts, strict=True)]
    kinds = enumerate(zip(ranks, parts, strict=True))
    adapters = [model.changes(rank, seed=at, parts=each) for at, (rank, each) in kinds]
    ids = torch.arange(sum(lengths), dtype=torch.int32) * 7 % 50
    wanted = expected(model, ids, lengths, adapters, under)
    for level in levels():
        found = run(level, model, ids, lengths, adapters, under)
        tolerance = TOLERANCE[number]
        torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


# the reference's products may depend on the number of rows
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_text_has_the_same_bits_in_every_company(level: str, number: str, threads: int) -> None:
    torch.set_num_threads(threads)
    model = Model(40, 5, 72, number)
    lengths, under = [5, 300, 1, 33, 16, 260, 2, 9], [1, 0, NONE, 2, NONE, NONE, 1, 1]
    ids, adapters = tokens(sum(lengths)), three(model)
    together = run(level, model, ids, lengths, adapters, under)
    plain = run(level, model, ids, lengths)
    rows = torch.split(torch.arange(len(ids)), lengths)
    for own, number_of_text in zip(rows, under, strict=True):
        if number_of_text == NONE:
            assert torch.equal(together[own], plain[own])
            continue
        alone = run(level, model, ids[own], [len(own)], [adapters[number_of_text]], [0])
        assert torch.equal(together[own], alone)
        assert not torch.equal(together[own], plain[own])


def test_texts_may_be_in_any_order(level: str) -> None:
    model = Model(64, 2, 96, "bfloat16")
    ids, adapters = tokens(10 * 12), three(model)
    under = [0, 1, 2, NONE] * 3
    mixed = run(level, model, ids, [10] * 12, adapters, under)
    order = torch.tensor(under).argsort(stable=True)
    sorted_ids = ids.view(12, 10)[order].flatten()
    by_adapter = run(level, model, sorted_ids, [10] * 12, adapters, sorted(under))
    assert torch.equal(mixed.view(12, 10, -1)[order], by_adapter.view(12, 10, -1))


def test_an_adapter_that_changes_nothing(backend: str) -> None:
    model = Model(64, 2, 96, "float32")
    ids = tokens(20)
    nothing = run(backend, model, ids, [8, 12], [{}], [0, 0])
    assert torch.equal(nothing, run(backend, model, ids, [8, 12]))


def test_nan_stays_in_its_text(backend: str) -> None:
    model = Model(32, 2, 64, "bfloat16")
    words, *rest = model.arguments()
    words[7] = torch.nan
    packed = [pack_encoder_adapter(model.sizes, each) for each in three(model)]
    operator = encoder_forward_reference if backend == REFERENCE else encoder_forward
    y = operator(
        torch.tensor([1, 2, 7, 3, 4, 5], dtype=torch.int32),
        starts([2, 2, 2]),
        words,
        *rest,
        [each.weights for each in packed],
        [each.ranks for each in packed],
        int32(0, 0, 1),
    )
    assert y.isnan().any(1).tolist() == [False, False, True, True, False, False]


SIZES = EncoderSizes(2, 8, 16, "float32")


def change(ranks: int, outputs: int, inputs: int, **values: Any) -> LowRank:
    given = {"a": torch.ones(ranks, inputs), "b": torch.ones(outputs, ranks), "scale": 1.0}
    return LowRank(**(given | values))


@pytest.mark.parametrize(
    ("place", "given", "message"),
    [
        ((0, "gate"), change(2, 8, 8), "the model has no part 'gate' of layer 0"),
        ((2, "up"), change(2, 16, 8), "the model has no part 'up' of layer 2"),
        ((1, "up"), change(0, 16, 8), "up of layer 1 has rank 0; it must be from 1 to 1024"),
        ((1, "up"), change(1025, 16, 8), "up of layer 1 has rank 1025; it must be from 1 to 1024"),
        (
            (0, "down"),
            change(2, 8, 8),
            r"A of down of layer 0 .* [2, 8]; the model asks for [2, 16]",
        ),
        ((0, "key"), change(2, 9, 8), r"B of key of layer 0 .* [9, 2]; the model asks for [8, 2]"),
        (
            (0, "key"),
            change(2, 8, 8, a=torch.full((2, 8), torch.inf)),
            "A of key of layer 0 holds a number that is not finite",
        ),
    ],
)
def test_changes_that_do_not_fit(place: tuple[int, str], given: LowRank, message: str) -> None:
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(ValueError, match=f"^{pattern}$"):
        pack_encoder_adapter(SIZES, {place: given})


def test_what_an_adapter_holds() -> None:
    packed = pack_encoder_adapter(SIZES, {(1, "down"): change(2, 8, 16)})
    assert packed.ranks.tolist() == [[0] * 6, [0, 0, 0, 0, 0, 2]]
    # a panel of 32 outputs each: A of 16 inputs, B of 2
    assert packed.nbytes == 32 * (16 + 2) * 4 + packed.ranks.nbytes
