"""Parameters that are views of one vector, and stay so."""

from __future__ import annotations

import torch

from train.loop.flat import FlatParameters


def make() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))


def test_values_are_those_of_the_parameters() -> None:
    model = make()
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    flat = FlatParameters(model.named_parameters())
    assert len(flat) == 3 * 4 + 4 + 4 * 2
    assert torch.equal(flat.values, torch.cat([each.flatten() for each in before.values()]))
    for name, view in flat.named().items():
        assert torch.equal(view, before[name])


def test_a_step_of_the_vector_is_one_of_the_module() -> None:
    model = make()
    x = torch.ones(1, 3)
    flat = FlatParameters(model.named_parameters())
    before = model(x).detach()
    flat.values.mul_(2.0)
    assert not torch.equal(model(x), before)
    flat.values.zero_()
    assert torch.equal(model(x), torch.zeros(1, 2))


def test_backward_passes_add_to_the_vector_in_place() -> None:
    model, other = make(), make()
    flat = FlatParameters(model.named_parameters())
    place = flat.gradient.data_ptr()
    for scale in (1.0, 2.0):
        for each in (model, other):
            (each(torch.ones(2, 3) * scale) ** 2).sum().backward()
    wanted = torch.cat(
        [each.grad.flatten() for each in other.parameters() if each.grad is not None]
    )
    assert torch.equal(flat.gradient, wanted)
    assert wanted.abs().max() > 0
    assert flat.gradient.data_ptr() == place
    flat.gradient.zero_()
    assert all(not each.grad.any() for each in model.parameters() if each.grad is not None)


def test_a_vector_of_the_same_layout_has_names() -> None:
    flat = FlatParameters(make().named_parameters())
    other = torch.arange(float(len(flat)))
    named = flat.named(other)
    assert named["0.weight"].tolist() == torch.arange(12.0).view(4, 3).tolist()
    assert named["0.bias"].tolist() == [12, 13, 14, 15]
    assert named["1.weight"].tolist() == torch.arange(16.0, 24.0).view(2, 4).tolist()


def test_the_layout_tells_names_shapes_and_order_apart() -> None:
    def layout(**shapes: tuple[int, ...]) -> str:
        named = [(name, torch.nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items()]
        return FlatParameters(named).layout()

    assert layout(a=(2, 3), b=(4,)) == layout(a=(2, 3), b=(4,))
    others = [
        layout(a=(2, 3), b=(4,)),
        layout(a=(3, 2), b=(4,)),
        layout(a=(2, 3), c=(4,)),
        layout(b=(4,), a=(2, 3)),
        layout(a=(2, 3)),
    ]
    assert len(set(others)) == len(others)


def test_nothing_to_train_is_an_empty_vector() -> None:
    assert len(FlatParameters([])) == 0
