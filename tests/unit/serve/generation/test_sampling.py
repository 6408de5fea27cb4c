"""Draws: what may be drawn (transformers is the oracle), how often, and on what it depends."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironcliw.errors import IroncliwError
from ironcliw.settings import load_settings
from serve.engines.protocol import Tokens
from serve.generation.protocol import Logits, Sampling, TokenDraw
from serve.generation.sampling import DrawContext, draw, log_probabilities, uniform

NO_PROMPT: Tokens = np.array([0], np.int32)


def context(sampling: Sampling, generated: list[int] | None = None, **kwargs: Any) -> DrawContext:
    return DrawContext(sampling, kwargs.pop("prompt", NO_PROMPT), generated or [], **kwargs)


def one(row: Logits, drawn_with: DrawContext) -> TokenDraw:
    (outcome,) = draw(row[None], [drawn_with])
    assert isinstance(outcome, TokenDraw)
    return outcome


def random_row(seed: int, size: int = 1000, scale: float = 2.0) -> Logits:
    row = np.random.default_rng(seed).standard_normal(size) * scale
    return row.astype(np.float32)


def counts(row: Logits, sampling: Sampling, draws: int) -> npt.NDArray[np.float64]:
    """How often each token is drawn with the seeds 0, 1, 2, ..."""
    seen = Counter(one(row, context(replace(sampling, seed=seed))).id for seed in range(draws))
    return np.array([seen[token] for token in range(len(row))], np.float64)


def oracle(row: Logits, *processors: Any) -> npt.NDArray[np.float64]:
    """The probabilities that transformers draws from."""
    import torch

    scores = torch.from_numpy(row[None].copy())
    for processor in processors:
        scores = processor(torch.zeros((1, 1), dtype=torch.long), scores)
    probabilities: npt.NDArray[np.float64] = scores[0].double().softmax(-1).numpy()
    return probabilities


def chi_square(observed: npt.NDArray[np.float64], p: npt.NDArray[np.float64]) -> float:
    """Pearson's statistic over its standard deviations; tokens of few expected draws together."""
    expected = p * observed.sum()
    common = expected >= 8
    rare = expected[~common].sum()
    statistic = float((((observed - expected) ** 2)[common] / expected[common]).sum())
    freedom = int(common.sum()) - 1
    if rare >= 8:
        statistic += float((observed[~common].sum() - rare) ** 2 / rare)
        freedom += 1
    return (statistic - freedom) / math.sqrt(2 * max(freedom, 1))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.7, 0, 1.0),
        (1.0, 20, 1.0),
        (1.5, 20, 0.8),
        (1.0, 0, 0.9),
        (0.3, 0, 0.5),
        (3.0, 0, 0.99),
        (1.0, 1000, 0.9),
        (1.0, 5000, 1.0),
        (1.0, 1, 1.0),
        (1.0, 0, 1e-6),
    ],
)
def test_draws_are_spread_as_transformers_would(
    temperature: float, top_k: int, top_p: float
) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    row = random_row(1, size=900)
    warpers: list[Any] = [TemperatureLogitsWarper(temperature)]
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = oracle(row, *warpers)
    observed = counts(row, Sampling(temperature, top_p, top_k), 3000)
    assert observed[expected == 0].sum() == 0
    if (expected > 0).sum() > 1:
        # the seeds are fixed, so this holds always or never; a fair sampler is within 3
        assert abs(chi_square(observed, expected)) < 3


def test_chi_square_sees_a_wrong_temperature() -> None:
    row = random_row(1, size=900)
    observed = counts(row, Sampling(temperature=0.9), 3000)
    assert chi_square(observed, oracle(row)) > 10


# the same examples each time: at a boundary of top_p the last digit of a sum decides
@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(0, 1000), st.integers(1, 60), st.floats(0.05, 0.999), st.integers(61, 1200))
def test_what_may_be_drawn_is_what_transformers_leaves(
    seed: int, top_k: int, top_p: float, size: int
) -> None:
    """The extremes: the likeliest and the unlikeliest candidate are reached, and nothing beyond."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    row = random_row(seed, size)
    for warpers, sampling in (
        ([TopKLogitsWarper(top_k)], Sampling(top_k=top_k)),
        ([TopPLogitsWarper(top_p)], Sampling(top_p=top_p)),
        ([TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)], Sampling(1, top_p, top_k)),
    ):
        allowed = np.flatnonzero(oracle(row, *warpers))
        last = allowed[row[allowed].argmin()]
        drawn = {number: drawn_at(row, sampling, number) for number in (0.0, 1 - 2.0**-53)}
        assert drawn == {0.0: int(row.argmax()), 1 - 2.0**-53: int(last)}


def drawn_at(row: Logits, sampling: Sampling, number: float) -> int:
    """The token drawn when the uniform number is this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.generation.sampling.uniform", lambda *key: number)
        return one(row, context(sampling)).id


@pytest.mark.parametrize("sampling", [Sampling(top_k=600), Sampling(top_p=0.5), Sampling()])
def test_equal_logits_stand_in_the_order_of_their_ids(sampling: Sampling) -> None:
    row = np.zeros(1200, np.float32)
    drawn = [drawn_at(row, sampling, number) for number in (0.0, 0.25, 0.5, 1 - 2.0**-53)]
    assert drawn == sorted(drawn)
    assert drawn[0] == 0
    assert drawn[-1] == (599 if sampling != Sampling() else 1199)


@given(
    st.lists(st.integers(0, 49), min_size=1, max_size=30),
    st.lists(st.integers(0, 49), max_size=10),
    st.sampled_from([0.5, 1.1, 2.0]),
)
def test_repetition_penalty_as_in_transformers(
    prompt: list[int], generated: list[int], penalty: float
) -> None:
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    row = random_row(3, size=50)
    ids = torch.tensor([prompt + generated])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, torch.from_numpy(row[None].copy()))
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    drawn = one(row, context(sampling, generated, prompt=np.array(prompt, np.int32)))
    assert drawn.id == int(expected.argmax())


def test_presence_and_frequency_penalties_are_of_the_answer_alone() -> None:
    row = np.array([3.0, 2.0, 1.0], np.float32)
    sampling = Sampling(temperature=0, presence_penalty=0.75, frequency_penalty=0.5)
    prompt: Tokens = np.zeros(9, np.int32)
    drawn = [one(row, context(sampling, [0] * n, prompt=prompt)).id for n in range(3)]
    assert drawn == [0, 1, 1]
    # 3 - 0.75 - 3 * 0.5 and 2 - 0.75 - 0.5 are both below 1
    assert one(row, context(sampling, [0, 0, 0, 1], prompt=prompt)).id == 2


def test_logit_bias_comes_before_the_rest() -> None:
    row = np.array([3.0, 2.0, 1.0], np.float32)
    assert one(row, context(Sampling(temperature=0, logit_bias=((2, 2.5),)))).id == 2
    banned = Sampling(top_k=2, logit_bias=((0, -100.0), (1, -100.0)))
    assert {one(row, context(replace(banned, seed=seed))).id for seed in range(50)} == {2}
    np.testing.assert_array_equal(row, [3, 2, 1])


def test_greedy_takes_the_lowest_of_equals() -> None:
    row = np.array([1.0, 2.0, 2.0], np.float32)
    assert one(row, context(Sampling(temperature=0))).id == 1
    assert one(row, context(Sampling(temperature=1e-9))).id == 1


def test_a_draw_depends_on_seed_index_and_position_and_on_nothing_else() -> None:
    row = random_row(5)
    base = context(Sampling(seed=7))
    assert one(row, base) == one(row, context(Sampling(seed=7)))
    varied = [context(Sampling(seed=seed)) for seed in range(-20, 20)]
    varied += [context(Sampling(seed=7), index=index) for index in range(40)]
    varied += [context(Sampling(seed=7), [3] * position) for position in range(40)]
    assert len({one(row, each).id for each in varied}) > 60
    others = np.stack([random_row(number) for number in range(8)])
    others[4] = row
    company = [context(Sampling(temperature=0))] * 4 + [base] + [context(Sampling(top_k=5))] * 3
    assert draw(others, company)[4] == one(row, base)


def test_uniform_numbers() -> None:
    numbers = np.array([uniform(seed, 0, at) for seed in range(50) for at in range(200)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    histogram = np.histogram(numbers, 20, (0, 1))[0].astype(float)
    assert abs(chi_square(histogram, np.full(20, 1 / 20))) < 3
    # the value is part of the promise: a resumed answer draws on another machine
    assert uniform(1, 2, 3) == 0.45452264757509075


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    import torch

    row = random_row(9)
    expected = torch.from_numpy(row).double().log_softmax(-1).numpy()
    sampling = Sampling(temperature=0.3, top_k=3, repetition_penalty=2.0, logprobs=5)
    drawn = one(row, context(sampling, [int(row.argmax())]))
    assert drawn.logprob == pytest.approx(expected[drawn.id], abs=1e-6)
    likeliest = np.argsort(-row)[:5].tolist()
    assert [token for token, _ in drawn.top] == likeliest
    assert [value for _, value in drawn.top] == pytest.approx(expected[likeliest], abs=1e-6)
    assert one(row, context(replace(sampling, logprobs=0))).top == ()
    assert one(row, context(Sampling(logprobs=None))).logprob is None
    assert log_probabilities(row, [4, 2]) == pytest.approx(expected[[4, 2]], abs=1e-6)
    assert draw(row[None], [context(Sampling(), score_tokens=(4, 2))]) == [
        log_probabilities(row, [4, 2])
    ]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0)])
def test_a_broken_engine_is_named(broken: float, sampling: Sampling) -> None:
    rows = np.stack([random_row(0), random_row(1)])
    rows[1, 500] = broken
    with pytest.raises(IroncliwError, match="NaN or infinite logits: its weights are damaged"):
        draw(rows, [context(sampling), context(sampling)])
    with pytest.raises(IroncliwError, match="NaN or infinite"):
        draw(np.full((1, 9), -np.inf, np.float32), [context(sampling)])


def test_what_is_said_of_a_broken_engine_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IroncliwError, match="NaN or infinite") as caught:
        draw(np.full((1, 9), np.nan, np.float32), [context(Sampling())])
    [(name, value)] = re.findall(r"(IRONCLIW_\w+)=(\w+)", str(caught.value))
    monkeypatch.setenv(name, value)
    assert load_settings().serve.precision == "float32"


def test_minus_infinity_is_a_banned_token() -> None:
    row = np.full(40, -np.inf, np.float32)
    row[[3, 30]] = 1.0
    for sampling in (Sampling(), Sampling(top_k=20), Sampling(top_p=0.999)):
        drawn = {one(row, context(replace(sampling, seed=seed))).id for seed in range(60)}
        assert drawn == {3, 30}


def test_rows_are_counted() -> None:
    with pytest.raises(IroncliwError, match="2 rows of logits where 1 were asked for"):
        draw(np.zeros((2, 9), np.float32), [context(Sampling())])
    assert draw(np.zeros((0, 9), np.float32), []) == []


def operator(rows: Logits, contexts: list[DrawContext]) -> list[int]:
    """What the operator draws when it is told everything, as for rows that ask for more."""
    import torch

    from native_ops.sampling import sample_tokens
    from serve.generation.sampling import _arguments

    tokens: list[int] = sample_tokens(torch.from_numpy(rows), *_arguments(contexts))[0].tolist()
    return tokens


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize(
    "kinds",
    [
        [Sampling(temperature=0)],
        [Sampling(temperature=1e-9), Sampling(temperature=0)],
        [Sampling(temperature=0), Sampling(seed=4)],
        [Sampling(0.7, 0.9, seed=5), Sampling(1.3, 1.0, 7, seed=6), Sampling(seed=7)],
        [Sampling(seed=4), Sampling(temperature=0, logit_bias=((3, 9.0),))],
        [Sampling(seed=4), Sampling(temperature=0, repetition_penalty=3.0)],
        [Sampling(seed=4), Sampling(temperature=0, frequency_penalty=2.0)],
        [Sampling(seed=4), Sampling(temperature=0, presence_penalty=2.0)],
    ],
)
def test_the_short_ways_give_the_same_tokens(count: int, kinds: list[Sampling]) -> None:
    many_ties = [np.round(random_row(seed, 50, 0.7)) for seed in range(count)]
    rows = np.stack(many_ties).astype(np.float32)
    for position in range(4):
        contexts = [
            context(kinds[row % len(kinds)], list(range(position)), index=row)
            for row in range(count)
        ]
        drawn = [outcome.id for outcome in draw(rows, contexts) if isinstance(outcome, TokenDraw)]
        assert drawn == operator(rows, contexts)


def test_many_rows_are_drawn_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from native_ops.sampling import sample_tokens

    seen: list[int] = []

    def watched(*arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return sample_tokens(*arguments)

    monkeypatch.setattr("serve.generation.sampling.sample_tokens", watched)
    usual = torch.get_num_threads()
    draw(np.stack([random_row(1, 50)] * 20), [context(Sampling())] * 20)
    assert (seen, torch.get_num_threads()) == ([1], usual)
