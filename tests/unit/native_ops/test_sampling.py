"""The draw on every level: the same tokens, and the same bits, as the reference in numpy.

That the reference draws what transformers would is tested with `serve.generation.sampling`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from native_ops.sampling import BROKEN, sample_tokens, sample_tokens_reference
from native_ops.sampling_reference import weights


def arguments(logits: torch.Tensor, **given: Any) -> list[Any]:
    """What the operator takes for rows that are drawn from plainly, but for what is given."""
    rows = len(logits)
    values: dict[str, Any] = {
        "logits": logits,
        "numbers": torch.full((rows,), 0.5, dtype=torch.float64),
        "temperatures": torch.ones(rows, dtype=torch.float64),
        "top_p": torch.ones(rows, dtype=torch.float64),
        "top_k": torch.zeros(rows, dtype=torch.int64),
        "penalties": torch.tensor([[1.0, 0, 0]] * rows, dtype=torch.float64).reshape(rows, 3),
        "history": torch.zeros(0, dtype=torch.int32),
        "history_starts": torch.zeros(rows + 1, dtype=torch.int64),
        "answer_starts": torch.zeros(rows, dtype=torch.int64),
        "bias_ids": torch.zeros(0, dtype=torch.int32),
        "bias_values": torch.zeros(0),
        "bias_starts": torch.zeros(rows + 1, dtype=torch.int64),
        "top_counts": torch.full((rows,), -1, dtype=torch.int64),
        "top_width": 0,
    }
    assert given.keys() <= values.keys()
    return list((values | given).values())


def random_arguments(seed: int, width: int, rows: int) -> list[Any]:
    """Rows with ties, bans and wide or narrow spreads, and every kind of draw."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((rows, width)) * random.choice([0.3, 2, 5], (rows, 1))
    logits[1::4] = logits[1::4].round()
    logits[2::4][random.random(logits[2::4].shape) < 0.9] = -np.inf
    logits[:, random.integers(width)] = 1
    sizes, biased = random.integers(0, 60, rows), random.integers(0, 3, rows)
    return arguments(
        torch.from_numpy(logits.astype(np.float32)),
        numbers=torch.from_numpy(random.random(rows)),
        temperatures=torch.from_numpy(random.choice([0, 1e-5, 0.1, 0.7, 1, 1.5, 50], rows)),
        top_p=torch.from_numpy(random.choice([1, 0.9, 0.5, 1e-9, 0.9999, 0], rows)),
        top_k=torch.from_numpy(random.choice([0, 0, 1, 40, width, width // 2], rows)),
        penalties=torch.from_numpy(
            np.stack([random.choice(kinds, rows) for kinds in ([1, 1.3, 0.5], [0, 0.5], [0, 0.25])])
        ).T,
        history=torch.from_numpy(random.integers(0, width, sizes.sum(), dtype=np.int32)),
        history_starts=torch.from_numpy(np.concatenate([[0], sizes.cumsum()])),
        answer_starts=torch.from_numpy(sizes // 3),
        bias_ids=torch.from_numpy(random.integers(0, width, biased.sum(), dtype=np.int32)),
        bias_values=torch.from_numpy(random.choice([5, -100], biased.sum()).astype(np.float32)),
        bias_starts=torch.from_numpy(np.concatenate([[0], biased.cumsum()])),
        top_counts=torch.from_numpy(random.integers(-1, 9, rows)),
        top_width=8,
    )


def assert_same(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-13, atol=1e-13, equal_nan=True)
    torch.testing.assert_close(actual[2], expected[2], rtol=0, atol=0)


@pytest.mark.parametrize("width", [1, 2, 17, 300, 4097])
def test_every_level_draws_what_the_reference_draws(level: str, width: int) -> None:
    for seed in range(4):
        given = random_arguments(seed, width, 64)
        assert_same(sample_tokens(*given), sample_tokens_reference(*given))


def test_wide_flat_rows_and_many_candidates(level: str) -> None:
    given = random_arguments(9, 30000, 12)
    given[0] = torch.randn(12, 30000, generator=torch.Generator().manual_seed(1))
    assert_same(sample_tokens(*given), sample_tokens_reference(*given))


def test_a_row_depends_on_no_other(level: str) -> None:
    given = random_arguments(3, 999, 16)
    together = sample_tokens(*given)
    for row in (0, 7, 15):
        history, biases = (slice(*given[at][row : row + 2].tolist()) for at in (7, 11))
        alone = [given[at][row : row + 1] for at in range(6)]
        alone += [given[6][history], torch.tensor([0, history.stop - history.start])]
        alone += [given[8][row : row + 1], given[9][biases], given[10][biases]]
        alone += [torch.tensor([0, biases.stop - biases.start]), given[12][row : row + 1], 8]
        for one, all_rows in zip(sample_tokens(*alone), together, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], rtol=0, atol=0, equal_nan=True)


def test_weights_are_exponentials() -> None:
    values = np.linspace(-100, 0, 100_001, dtype=np.float32)
    for temperature in (1.0, 0.7):
        exact = np.exp(values.astype(np.float64) / np.float32(temperature))
        actual = weights(values, np.float32(0), temperature)
        inside = values / np.float32(temperature) >= -87
        # dividing by the temperature rounds an exponent of up to 87
        bound = 3e-7 if temperature == 1 else 6e-6
        assert np.abs(actual[inside] / exact[inside] - 1).max() < bound
        assert not actual[~inside].any()
    assert weights(values[-1:], np.float32(0), 1)[0] == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_row_without_a_finite_largest_is_broken_alone(level: str, broken: float) -> None:
    logits = torch.zeros(3, 700)
    logits[1, 600:] = broken
    logits[1, : 600 if broken == -np.inf else 0] = broken
    given = arguments(logits, top_counts=torch.tensor([0, 0, 0]))
    for operator in (sample_tokens, sample_tokens_reference):
        tokens, normalisers, _ = operator(*given)
        assert [token == BROKEN for token in tokens.tolist()] == [False, True, False]
        assert normalisers.isnan().tolist() == [False, True, False]


def test_penalties_that_overflow_break_the_row(level: str) -> None:
    penalties = torch.tensor([[1e-6, 0, 0]], dtype=torch.float64)
    given = arguments(
        torch.full((1, 9), 3e38),
        penalties=penalties,
        history=torch.tensor([2], dtype=torch.int32),
        history_starts=torch.tensor([0, 1]),
    )
    assert sample_tokens(*given)[0].tolist() == [BROKEN]
    with np.errstate(over="ignore"):
        assert sample_tokens_reference(*given)[0].tolist() == [BROKEN]


def test_non_contiguous_logits_and_no_rows(level: str) -> None:
    given = random_arguments(5, 64, 6)
    expected = sample_tokens(*given)
    given[0] = given[0].T.contiguous().T
    assert_same(sample_tokens(*given), expected)
    empty = arguments(torch.zeros(0, 9))
    for operator in (sample_tokens, sample_tokens_reference):
        assert [tuple(result.shape) for result in operator(*empty)] == [(0,), (0,), (0, 0)]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"logits": torch.zeros(2, 9, dtype=torch.float64)}, "logits must be float32; it is float64"),
    ({"logits": torch.zeros(2, 9, 1)}, "logits must have 2 dimensions"),
    ({"logits": torch.zeros(2, 0)}, "logits must have 1 to 2"),
    ({"numbers": torch.zeros(3, dtype=torch.float64)}, "numbers must have 2 in dimension 0"),
    ({"numbers": torch.ones(2, dtype=torch.float64)}, r"numbers must be in \[0, 1\)"),
    ({"temperatures": torch.tensor([1.0, -1], dtype=torch.float64)}, "temperatures must be finite"),
    ({"top_p": torch.tensor([1.0, np.nan], dtype=torch.float64)}, r"top_p must be in \[0, 1\]"),
    ({"top_k": torch.tensor([1, -1])}, "top_k must not be negative"),
    ({"penalties": torch.zeros(2, 3, dtype=torch.float64)}, "repetition penalties must be finite"),
    ({"penalties": torch.ones(2, 2, dtype=torch.float64)}, "penalties must have 3 in dimension 1"),
    ({"history_starts": torch.tensor([0, 1, 0])}, "history_starts must rise from 0"),
    ({"history_starts": torch.tensor([0, 0, 4])}, "history_starts must go from 0 to 0"),
    ({"answer_starts": torch.tensor([0, 1])}, "answer_starts must lie within the row's history"),
    (
        {
            "bias_ids": torch.tensor([9], dtype=torch.int32),
            "bias_values": torch.ones(1),
            "bias_starts": torch.tensor([0, 0, 1]),
        },
        "bias_ids must hold ids below 9",
    ),
    ({"bias_values": torch.ones(1)}, "bias_values must have 0 in dimension 0"),
    ({"top_counts": torch.tensor([0, 5])}, "top_counts must be from -1 to top_width = 0"),
    ({"top_width": -1}, "top_width must not be negative"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
@pytest.mark.parametrize("operator", [sample_tokens, sample_tokens_reference])
def test_bad_arguments_are_named(operator: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"ironcliw::sample_tokens: {message}"):
        operator(*arguments(**{"logits": torch.zeros(2, 9), **bad}))
