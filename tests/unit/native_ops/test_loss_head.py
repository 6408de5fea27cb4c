"""The loss head against float64 cross-entropy, on every level, for every way to train with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example as example_of
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops import loss_head as head
from native_ops.loss_head import loss_head, token_logprobs
from tests.unit.native_ops.levels import REFERENCE, on_each_level

# relative to the largest value; bfloat16 logits have 8 bits
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float64: 1e-12}


opcheck: Any = torch.library.opcheck


def backward(loss: torch.Tensor) -> None:
    torch.autograd.backward(loss)


@pytest.fixture
def kernels(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == REFERENCE:
        monkeypatch.setattr(head, "_kernel", lambda x, operator, reference: reference)


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "TILE", 16)
    monkeypatch.setattr(head, "ROWS", 3)


def example(
    rows: int, vocabulary: int, width: int, dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < 0.4] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def exact(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same in float64, with all the logits: log-probabilities and the leaves."""
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    logprobs = -F.cross_entropy(h @ w.t(), targets, reduction="none", ignore_index=-100)
    return logprobs, h, w


def distance(actual: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    """Largest difference over the largest value."""
    assert actual is not None and expected is not None and actual.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    scale = float(expected.detach().abs().max().clamp(min=1e-3))
    return float((actual.detach().double() - expected.detach()).abs().max()) / scale


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 1), (7, 49), (10, 64), (5, 17)])
def test_logprobs_and_gradients_against_float64(
    kernels: None, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int, vocabulary: int
) -> None:
    small_tiles(monkeypatch)
    hidden, weight, targets = example(rows, vocabulary, 13, dtype)
    expected, h, w = exact(hidden, weight, targets)
    coefficients = torch.linspace(-1, 2, rows, dtype=torch.float64)
    backward((expected * coefficients).sum())
    actual = token_logprobs(hidden, weight, targets)
    backward((actual * coefficients.to(actual.dtype)).sum())
    assert distance(actual, expected) <= TOLERANCE[dtype]
    assert distance(hidden.grad, h.grad) <= TOLERANCE[dtype]
    assert distance(weight.grad, w.grad) <= TOLERANCE[dtype]
    assert hidden.grad is not None and hidden.grad.dtype == dtype


@given(
    rows=st.integers(0, 9),
    vocabulary=st.integers(1, 70),
    width=st.integers(1, 40),
    seed=st.integers(0, 9),
)
@example_of(rows=5, vocabulary=4, width=23, seed=7)
@settings(max_examples=30, deadline=None)
def test_mean_equals_cross_entropy_for_random_shapes(
    rows: int, vocabulary: int, width: int, seed: int
) -> None:
    hidden, weight, targets = example(rows, vocabulary, width, torch.float32, seed)
    expected, h, _ = exact(hidden, weight, targets)
    supervised = (targets != -100).sum()
    mean = -expected.sum() / supervised
    if supervised:
        backward(mean)

    def check() -> None:
        hidden.grad = None
        loss, _ = loss_head(hidden, weight, targets)
        if not supervised:
            assert loss.isnan()
            return
        backward(loss)
        assert loss.item() == pytest.approx(mean.item(), rel=1e-5, abs=1e-5)
        assert hidden.grad is not None
        # as near as a probability in float32 is to 1: a small loss has small gradients
        torch.testing.assert_close(hidden.grad.double(), h.grad, rtol=1e-5, atol=2e-6)

    on_each_level(check)


def test_gradient_check_in_float64() -> None:
    hidden, weight, targets = example(5, 11, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, targets), (hidden, weight))


def test_token_weights_weigh_the_loss_and_its_mean() -> None:
    hidden, weight, targets = example(8, 30, 5, torch.float32)
    weights = torch.rand(8)
    expected, _, _ = exact(hidden, weight, targets)
    weighted = -(expected * weights).sum()
    total, logprobs = loss_head(hidden, weight, targets, weights, "sum")
    mean, _ = loss_head(hidden, weight, targets, weights)
    assert total.item() == pytest.approx(weighted.item(), rel=1e-5)
    assert mean.item() == pytest.approx((weighted / weights[targets != -100].sum()).item(), 1e-5)
    assert distance(logprobs, expected) <= 1e-6


def test_dpo_gradients_flow_through_sums_over_sequences() -> None:
    hidden, weight, targets = example(12, 30, 5, torch.float32)
    sequence = torch.arange(12) // 3

    def dpo(logprobs: torch.Tensor) -> torch.Tensor:
        sums = logprobs.new_zeros(4).index_add(0, sequence, logprobs)
        return -F.logsigmoid(0.1 * (sums[::2] - sums[1::2])).mean()

    expected, h, w = exact(hidden, weight, targets)
    backward(dpo(expected))
    backward(dpo(token_logprobs(hidden, weight, targets)))
    assert distance(hidden.grad, h.grad) <= 1e-5
    assert distance(weight.grad, w.grad) <= 1e-5


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    hidden, weight, targets = example(6, 20, 4, torch.float32)
    reference = token_logprobs(hidden, weight, targets).detach()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    logprobs = token_logprobs(hidden, weight, targets)
    assert logprobs.requires_grad == (frozen != "both")
    assert torch.equal(logprobs, reference)
    if logprobs.requires_grad:
        backward(logprobs.sum())
    assert (hidden.grad is None) == (frozen != "weight")
    assert (weight.grad is None) == (frozen != "hidden")


def test_without_gradients_nothing_is_kept_for_them() -> None:
    hidden, weight, targets = example(6, 20, 4, torch.float32)
    with torch.no_grad():
        assert not token_logprobs(hidden, weight, targets).requires_grad
    _, _, gradient = head._forward(hidden.detach(), weight.detach(), targets, False)
    assert gradient.shape == (0, 4)


def test_logits_of_all_positions_are_never_held(
    kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    product = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        result = product(a, b)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(torch, "mm", watched)
    small_tiles(monkeypatch)
    hidden, weight, targets = example(20, 200, 4, torch.float32)
    backward(token_logprobs(hidden, weight, targets).sum())
    assert 0 < largest <= max(3 * 16, 16 * 4)


def test_all_ignored_and_empty_give_zeros(kernels: None) -> None:
    for rows in (0, 4):
        hidden, weight, _ = example(rows, 9, 3, torch.float32)
        logprobs = token_logprobs(hidden, weight, torch.full((rows,), -100))
        backward(logprobs.sum())
        assert torch.equal(logprobs.detach(), torch.zeros(rows))
        assert hidden.grad is not None and torch.equal(hidden.grad, torch.zeros(rows, 3))
        assert weight.grad is not None and not weight.grad.any()


def test_nan_stays_in_its_row(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    hidden, weight, targets = example(6, 40, 5, torch.float32)
    targets = targets.clamp(min=0)
    values = hidden.detach().clone()
    values[2, 1] = torch.nan
    values.requires_grad_()
    logprobs = token_logprobs(values, weight.detach(), targets)
    backward(logprobs.sum())
    expected = torch.arange(6) == 2
    assert torch.equal(logprobs.isnan(), expected)
    assert values.grad is not None and torch.equal(values.grad.isnan().any(1), expected)


def test_extreme_logits_stay_finite(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    weight = torch.tensor([[-3e4], [3e4], [0.0]]).repeat(20, 1)
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    targets = torch.tensor([1, 0])
    logprobs = token_logprobs(hidden, weight, targets)
    backward(logprobs.sum())
    assert logprobs.tolist() == pytest.approx([-torch.tensor(20.0).log().item()] * 2, rel=1e-5)
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_non_contiguous_inputs() -> None:
    hidden, weight, targets = example(6, 20, 8, torch.float32)
    expected = token_logprobs(hidden, weight, targets)
    strided = hidden.detach().t().contiguous().t().requires_grad_()
    actual = token_logprobs(strided, weight.t().contiguous().t(), targets.repeat(2, 1).t()[:, 0])
    assert distance(actual, expected.detach().double()) <= 1e-6
    backward(actual.sum())
    backward(expected.sum())
    assert hidden.grad is not None
    assert distance(strided.grad, hidden.grad.double()) <= 1e-6


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_each_time_for_a_number_of_threads(threads: int) -> None:
    hidden, weight, targets = example(150, 5000, 64, torch.float32)
    results = []
    torch.set_num_threads(threads)
    for _ in range(3):
        hidden.grad = weight.grad = None
        logprobs = token_logprobs(hidden, weight, targets)
        backward(logprobs.sum())
        results.append((logprobs.detach(), hidden.grad, weight.grad))
    for other in results[1:]:
        assert all(distance(a, b) == 0 for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("needs_weight", [True, False])
def test_the_gradient_is_well_registered(needs_weight: bool) -> None:
    hidden, weight, targets = example(5, 12, 4, torch.float32)
    weight.requires_grad_(needs_weight)
    opcheck(head._forward, (hidden, weight, targets, True))


def test_compiles_without_a_graph_break() -> None:
    hidden, weight, targets = example(6, 20, 4, torch.float32)
    compiled: Any = torch.compile(loss_head, backend="aot_eager", fullgraph=True)
    loss, logprobs = compiled(hidden, weight, targets)
    backward(loss)
    gradients = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    expected, expected_logprobs = loss_head(hidden, weight, targets)
    backward(expected)
    assert torch.equal(loss, expected) and torch.equal(logprobs, expected_logprobs)
    assert gradients[0] is not None and hidden.grad is not None
    assert torch.equal(gradients[0], hidden.grad)
    assert gradients[1] is not None and weight.grad is not None
    assert torch.equal(gradients[1], weight.grad)


def test_a_second_derivative_is_refused() -> None:
    hidden, weight, targets = example(4, 9, 3, torch.float32)
    logprobs = token_logprobs(hidden, weight, targets.clamp(min=0))
    (first,) = torch.autograd.grad(logprobs.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiat"):
        backward(first.sum())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"targets": torch.tensor([0, 9])}, r"targets must be -100 or in \[0, 9\); 1 are not.* 9"),
        ({"targets": torch.tensor([-1, 0])}, r"targets must be -100 or in \[0, 9\).* -1"),
        ({"targets": torch.tensor([0])}, r"targets must have 2 .*its shape is \[1\]"),
        ({"targets": torch.zeros(2, dtype=torch.int32)}, "targets must be int64; it is int32"),
        ({"hidden": torch.zeros(2, 3).half()}, "hidden must be float32, bfloat16 or float64"),
        ({"hidden": torch.zeros(2)}, "hidden must have 2 dimensions"),
        ({"weight": torch.zeros(9, 3).double()}, "weight must be float32; it is float64"),
        (
            {"weight": torch.zeros(9, 4)},
            r"weight must have 3 in dimension 1; its shape is \[9, 4\]",
        ),
        (
            {"weight": torch.zeros(0, 3)},
            r"weight must have a row at least; its shape is \[0, 3\]",
        ),
    ],
)
def test_bad_input_names_operator_argument_and_rule(
    change: dict[str, torch.Tensor], match: str
) -> None:
    arguments = {
        "hidden": torch.zeros(2, 3),
        "weight": torch.zeros(9, 3),
        "targets": torch.tensor([0, -100]),
    }
    with pytest.raises(RuntimeError, match=f"ironcliw::token_logprobs: {match}"):
        token_logprobs(**{**arguments, **change})


def test_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="'median'; choose 'mean' or 'sum'"):
        loss_head(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0]), reduction="median")
