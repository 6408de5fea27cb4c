"""Linear layers with adapters against the formula, with autograd's own gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops.lora import LoraLayer, lora_linear, lora_linear_reference

SCALE = 2.0


def example(
    outputs: tuple[int, ...],
    rank: int = 3,
    width: int = 10,
    dtype: torch.dtype = torch.float64,
    adapter: torch.dtype | None = None,
) -> list[LoraLayer]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return [
        LoraLayer(
            normal(count, width, dtype=dtype),
            normal(count, dtype=dtype) if at != 1 else None,
            normal(rank + at, width, dtype=adapter or dtype).requires_grad_(),
            normal(count, rank + at, dtype=adapter or dtype).requires_grad_(),
        )
        for at, count in enumerate(outputs)
    ]


def rows(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def gradients(
    outputs: tuple[torch.Tensor, ...], x: torch.Tensor, layers: list[LoraLayer]
) -> tuple[torch.Tensor, ...]:
    """Of a sum that weighs every output differently, by x and by each a and b."""
    loss = sum((y.double() * (1 + torch.arange(y.numel()).view_as(y) % 7)).sum() for y in outputs)
    assert isinstance(loss, torch.Tensor)
    wanted = [x, *(tensor for layer in layers for tensor in (layer.a, layer.b))]
    return torch.autograd.grad(loss, wanted)


@given(tokens=st.integers(0, 9), outputs=st.lists(st.integers(1, 20), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_outputs_and_gradients_equal_the_formula(tokens: int, outputs: list[int]) -> None:
    x, layers = rows(tokens, 10), example(tuple(outputs))
    actual, expected = lora_linear(x, layers, SCALE), lora_linear_reference(x, layers, SCALE)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients(actual, x, layers), gradients(expected, x, layers))


@pytest.mark.parametrize(
    ("dtype", "adapter", "tolerance"),
    [
        (torch.float32, torch.float32, 1e-5),
        (torch.bfloat16, torch.bfloat16, 3e-2),
        (torch.bfloat16, torch.float32, 3e-2),
    ],
)
def test_lower_precision_against_float64(
    dtype: torch.dtype, adapter: torch.dtype, tolerance: float
) -> None:
    x, layers = rows(33, 64, dtype=dtype), example((48, 16, 16), 8, 64, dtype, adapter)
    exact_x = x.detach().double().requires_grad_()
    exact = [
        LoraLayer(
            w.double(),
            None if bias is None else bias.double(),
            a.detach().double().requires_grad_(),
            b.detach().double().requires_grad_(),
        )
        for w, bias, a, b in layers
    ]
    outputs, expected = lora_linear(x, layers, SCALE), lora_linear_reference(exact_x, exact, SCALE)
    pairs = [
        *zip(outputs, expected, strict=True),
        *zip(gradients(outputs, x, layers), gradients(expected, exact_x, exact), strict=True),
    ]
    for actual, wanted in pairs:
        assert (actual.double() - wanted).norm() <= tolerance * wanted.norm()
    assert outputs[0].dtype == dtype
    assert gradients(lora_linear(x, layers, SCALE), x, layers)[1].dtype == adapter


def test_gradient_check() -> None:
    x, layers = rows(4, 10), example((5, 2))
    adapters = [tensor for layer in layers for tensor in (layer.a, layer.b)]

    def apply(x: torch.Tensor, *ab: torch.Tensor) -> tuple[torch.Tensor, ...]:
        changed = [
            layer._replace(a=ab[2 * at], b=ab[2 * at + 1]) for at, layer in enumerate(layers)
        ]
        return lora_linear(x, changed, SCALE)

    assert torch.autograd.gradcheck(apply, (x, *adapters))


def test_dropout_comes_from_torch_and_is_repeated_with_its_state() -> None:
    x, layers = rows(6, 10), example((5, 4))
    state = torch.get_rng_state()
    actual = lora_linear(x, layers, SCALE, dropout=0.5)
    torch.set_rng_state(state)
    mask = F.dropout(torch.ones(6, 10, dtype=torch.float64), 0.5)
    expected = tuple(
        F.linear(x, weight, bias) + SCALE * (x * mask) @ a.t() @ b.t()
        for weight, bias, a, b in layers
    )
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients(actual, x, layers), gradients(expected, x, layers))
    torch.set_rng_state(state)
    again = lora_linear(x, layers, SCALE, dropout=0.5)
    assert all(torch.equal(one, other) for one, other in zip(actual, again, strict=True))


def test_without_training_there_is_no_dropout_and_no_draw() -> None:
    x, layers = rows(6, 10), example((5,))
    state = torch.get_rng_state()
    actual = lora_linear(x, layers, SCALE, dropout=0.5, training=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(actual, lora_linear_reference(x, layers, SCALE))


def test_two_tensors_are_kept_besides_the_parameters() -> None:
    x, layers = rows(6, 10), example((5, 4, 4))
    parameters = {id(tensor) for layer in layers for tensor in layer}
    kept: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in parameters:
            kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        lora_linear(x, layers, SCALE)
    assert sorted(kept) == [(6, 10), (6, 3 + 4 + 5)]


def test_frozen_input_and_batches_of_any_rank() -> None:
    x, layers = rows(2, 3, 10).detach(), example((5, 4))
    outputs = lora_linear(x.transpose(0, 1), layers, SCALE)
    expected = lora_linear_reference(x.transpose(0, 1), layers, SCALE)
    assert [tuple(y.shape) for y in outputs] == [(3, 2, 5), (3, 2, 4)]
    torch.testing.assert_close(outputs, expected)
    actual = torch.autograd.grad(outputs[1].sum(), layers[1].a)
    torch.testing.assert_close(actual, torch.autograd.grad(expected[1].sum(), layers[1].a))


def test_nan_stays_in_its_row() -> None:
    x, layers = rows(4, 10).detach(), example((5,))
    x[2, 1] = torch.nan
    (y,) = lora_linear(x, layers, SCALE)
    assert y.isnan().any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiles_without_a_graph_break(dropout: float) -> None:
    x, layers = rows(6, 10), example((5, 4))

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return lora_linear(x, layers, SCALE, dropout)

    compiled: Any = torch.compile(forward, backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    actual = compiled(x)
    torch.manual_seed(0)
    expected = forward(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients(actual, x, layers), gradients(expected, x, layers))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weight": torch.zeros(5, 9).double()}, r"weight of layer 0 must have 10 in dimension 1"),
        ({"bias": torch.zeros(4).double()}, r"bias of layer 0 must have 5 .*its shape is \[4\]"),
        ({"bias": torch.zeros(0).double()}, r"bias of layer 0 must have 5 .*its shape is \[0\]"),
        ({"bias": torch.zeros(5)}, "bias of layer 0 must be float64; it is float32"),
        ({"a": torch.zeros(3, 9)}, r"a of layer 0 must have 10 in dimension 1; .*\[3, 9\]"),
        ({"a": torch.zeros(3, 10).int()}, "a of layer 0 must be .*float64; it is int32"),
        ({"b": torch.zeros(5, 2)}, r"b of layer 0 must have 3 in dimension 1; .*\[5, 2\]"),
        ({"b": torch.zeros(4, 3)}, r"b of layer 0 must have 5 in dimension 0; .*\[4, 3\]"),
        ({"weight": torch.zeros(5, 10)}, "weight of layer 0 must be float64; it is float32"),
        (
            {"weight": torch.zeros(5, 10, dtype=torch.float64, requires_grad=True)},
            "weight of layer 0 wants a gradient; freeze it",
        ),
    ],
)
def test_bad_input_names_the_argument_and_the_rule(
    change: dict[str, torch.Tensor], match: str
) -> None:
    layer = example((5,))[0]._replace(**change)
    with pytest.raises(RuntimeError, match=f"^ironcliw::lora_linear: {match}"):
        lora_linear(rows(2, 10), [layer], SCALE)


def test_no_layers_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"^ironcliw::lora_linear: layers is empty"):
        lora_linear(rows(2, 10), [], SCALE)


def forward_arguments(dropped: bool) -> tuple[Any, ...]:
    x, layers = rows(6, 10), example((5, 4))
    weights, _, a, b = (list(part) for part in zip(*layers, strict=True))
    biases = [torch.ones(5, dtype=torch.float64), torch.empty(0, dtype=torch.float64)]
    other = rows(6, 10) if dropped else None  # a leaf, which opcheck can follow
    return x, other, SCALE, weights, biases, a, b


@pytest.mark.parametrize("dropped", [False, True])
def test_both_operators_are_well_formed(dropped: bool) -> None:
    operators = torch.ops.ironcliw
    x, other, *rest = forward_arguments(dropped)
    torch.library.opcheck(operators.lora_linear.default, (x, other, *rest))
    scale, weights, _, *adapters = rest
    a, b = ([t.detach() for t in part] for part in adapters)
    gradients = [torch.ones(6, 5).double(), torch.ones(6, 4).double()]
    source = (x if other is None else other).detach()
    given = (gradients, source, torch.ones(6, 7).double(), scale, weights, a, b)
    for for_rows in (True, False):
        torch.library.opcheck(
            operators.lora_linear_backward.default, (*given, for_rows, not dropped)
        )


def test_an_output_that_no_loss_uses_gives_its_adapter_zeros() -> None:
    x, layers = rows(4, 10), example((5, 4))
    used, _ = lora_linear(x, layers, SCALE)
    wanted = [x, layers[0].b, layers[1].a, layers[1].b]
    of_x, of_b, *unused = torch.autograd.grad(used.sum(), wanted)
    assert of_x.any() and of_b.any()
    assert not any(gradient.any() for gradient in unused)


def test_a_second_derivative_is_refused() -> None:
    x, layers = rows(4, 10), example((5,))
    (y,) = lora_linear(x, layers, SCALE)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiat"):
        torch.autograd.backward(first.sum())
