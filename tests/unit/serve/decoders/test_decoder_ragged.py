"""The plan of a step, without a network: every token once, every rule of `Step` kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import ContextLengthError, OverloadedError, RequestError
from serve.engines.decoders.ragged import MAX_WASTE, StepLimits
from serve.generation.protocol import Step

LIMITS = StepLimits(vocabulary=100, context=4000, slots=12, kv_tokens=20_000)


def make(parts: list[tuple[int, int, int]], rows: list[int] | None = None) -> Step:
    """Parts (slot, first position, tokens); token ids count up over the step."""
    total = sum(count for _, _, count in parts)
    return Step(
        tokens=(np.arange(total) % 100).astype(np.int32),
        positions=np.concatenate([np.arange(p, p + n) for _, p, n in parts]).astype(np.int32),
        slots=np.repeat([s for s, _, _ in parts], [n for _, _, n in parts]).astype(np.int32),
        logit_rows=np.array(range(total) if rows is None else rows, np.int32),
    )


def held(**slots: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    filled = np.zeros(LIMITS.slots, np.int64)
    for name, length in slots.items():
        filled[int(name.removeprefix("s"))] = length
    return filled


@st.composite
def steps(draw: st.DrawFn) -> tuple[Step, np.ndarray[Any, np.dtype[np.int64]]]:
    slots = draw(st.permutations(range(LIMITS.slots)))[: draw(st.integers(1, LIMITS.slots))]
    filled = np.array(draw(st.lists(st.integers(0, 1500), min_size=12, max_size=12)), np.int64)
    parts = []
    for slot in slots:
        first = draw(st.integers(0, int(filled[slot])))
        parts.append((slot, first, draw(st.sampled_from([1, 1, 1, 2, 5]))))
    total = sum(count for _, _, count in parts)
    rows = draw(st.lists(st.integers(0, total - 1), unique=True).map(sorted))
    return make(parts, rows), filled


@given(steps())
def test_a_plan_holds_every_token_once_in_order(
    given_step: tuple[Step, np.ndarray[Any, np.dtype[np.int64]]],
) -> None:
    step, filled = given_step
    plan = LIMITS.plan(step, filled)
    asked = zip(step.slots, step.positions, step.tokens, strict=True)
    assert sorted(asked) == list(zip(plan.slots, plan.positions, plan.tokens, strict=True))
    wanted = step.logit_rows
    assert plan.slots[plan.rows].tolist() == step.slots[wanted].tolist()
    assert plan.positions[plan.rows].tolist() == step.positions[wanted].tolist()
    at = 0
    for span in plan.spans:
        assert span.start == at
        for index, length in enumerate(span.lengths):
            inside = slice(at, at + span.count)
            assert (plan.slots[inside] == span.slot + index).all()
            assert plan.positions[inside][-1] == length - 1
            at += span.count
        assert span.end == at
        padded = span.longest * len(span.lengths) - sum(span.lengths)
        assert padded <= MAX_WASTE * (len(span.lengths) - 1)
    assert at == len(step.tokens)
    ends = dict(plan.ends)
    assert ends == {s: int(step.positions[step.slots == s][-1]) + 1 for s in set(step.slots)}


def test_decoding_neighbours_of_near_lengths_share_one_call() -> None:
    plan = LIMITS.plan(make([(0, 30, 1), (1, 60, 1), (2, 45, 1)]), held(s0=30, s1=60, s2=45))
    assert [span.lengths for span in plan.spans] == [(31, 61, 46)]


def test_chunks_gaps_and_long_neighbours_are_calls_of_their_own() -> None:
    step = make([(0, 30, 1), (1, 3000, 1), (2, 0, 40), (3, 9, 1), (5, 9, 1)])
    plan = LIMITS.plan(step, held(s0=30, s1=3000, s3=9, s5=9))
    assert [(s.slot, s.lengths, s.count) for s in plan.spans] == [
        (0, (31,), 1),
        (1, (3001,), 1),
        (2, (40,), 40),
        (3, (10,), 1),
        (5, (10,), 1),
    ]


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ([(0, 0, 2), (1, 0, 1), (0, 2, 1)], "must stand together"),
        ([(0, 5, 1)], "holds 0 positions and the step goes on at 5"),
        ([(12, 0, 1)], "slots 12 to 12; this decoder's go from 0 to 11"),
        ([(-1, 0, 1)], "slots -1 to -1"),
        ([(0, -1, 2)], "goes on at -1"),
    ],
)
def test_disorder_is_refused(parts: list[tuple[int, int, int]], rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        LIMITS.plan(make(parts), held())


def test_positions_must_rise_by_one() -> None:
    step = make([(0, 0, 3)])
    step.positions[2] = 5
    with pytest.raises(RequestError, match="must rise by one"):
        LIMITS.plan(step, held())


@pytest.mark.parametrize("token", [-1, 100])
def test_unknown_ids_are_refused(token: int) -> None:
    step = make([(0, 0, 3)])
    step.tokens[1] = token
    with pytest.raises(RequestError, match=f"token 1 of the step is {token}; .* 0 to 99"):
        LIMITS.plan(step, held())


def test_rows_must_name_tokens() -> None:
    with pytest.raises(RequestError, match="do not name tokens of a step of 3"):
        LIMITS.plan(make([(0, 0, 3)], rows=[3]), held())


def test_an_empty_or_uneven_step_is_refused() -> None:
    empty = np.empty(0, np.int32)
    with pytest.raises(RequestError, match="a step of 0 tokens"):
        LIMITS.plan(Step(empty, empty, empty, empty), held())
    whole = make([(0, 0, 3)])
    with pytest.raises(RequestError, match="3 tokens, 2 positions"):
        LIMITS.plan(Step(whole.tokens, whole.positions[:2], whole.slots, empty), held())


def test_the_context_is_a_limit() -> None:
    LIMITS.plan(make([(3, 3999, 1)]), held(s3=3999))
    with pytest.raises(ContextLengthError, match=r"slot 3 would hold 4001 .* reads 4000"):
        LIMITS.plan(make([(3, 4000, 1)]), held(s3=4000))


def test_the_cache_is_a_limit_over_all_slots() -> None:
    limits = StepLimits(vocabulary=100, context=100, slots=12, kv_tokens=50)
    filled = held(s0=30, s1=15)
    limits.plan(make([(2, 0, 5)]), filled)
    with pytest.raises(OverloadedError, match="would hold 51 positions and the cache has 50"):
        limits.plan(make([(2, 0, 6)]), filled)
    # what a step forgets makes room
    limits.plan(make([(0, 10, 1), (2, 0, 20)]), filled)
