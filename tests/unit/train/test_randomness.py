"""Seeds are the same for ever, and what is drawn depends on the place alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.randomness import seed_for, seeded

PLACES = st.tuples(
    st.integers(0, 2**63 - 1),
    st.integers(0, 10**6),
    st.integers(0, 64),
    st.integers(0, 64),
    st.sampled_from(["dropout", "order", "1", ""]),
)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((0, 0, 0, 0, "dropout"), 4507398056321937997),
        ((42, 1, 2, 3, "dropout"), 5533394507658429660),
        ((42, 1, 2, 3, "init"), 3539816650064514920),
        ((2**63 - 1, 10**6, 7, 31, "dropout"), 7513627428723604736),
    ],
)
def test_seeds_never_change(place: tuple[int, int, int, int, str], expected: int) -> None:
    assert seed_for(*place) == expected


@given(PLACES, PLACES)
def test_places_have_seeds_of_their_own(
    one: tuple[int, int, int, int, str], other: tuple[int, int, int, int, str]
) -> None:
    assert 0 <= seed_for(*one) < 2**63
    assert (seed_for(*one) == seed_for(*other)) == (one == other)


def test_what_is_drawn_depends_on_the_place_alone() -> None:
    with seeded(7, 3, 1, 0) as seed:
        first = torch.rand(5)
    assert seed == seed_for(7, 3, 1, 0, "dropout")
    torch.manual_seed(99)
    torch.rand(1000)
    with seeded(7, 3, 1, 0):
        assert torch.equal(torch.rand(5), first)
    with seeded(7, 3, 1, 1):
        assert not torch.equal(torch.rand(5), first)


@pytest.mark.parametrize("drawn", [0, 1000])
def test_what_is_drawn_afterwards_depends_on_the_place_too(drawn: int) -> None:
    with seeded(7, 3, 1, 0):
        inside = torch.rand(5)
    after = torch.rand(5)
    with seeded(7, 3, 1, 0):
        torch.rand(drawn)
    assert torch.equal(torch.rand(5), after)
    assert not torch.equal(inside, after)


def test_an_error_inside_passes() -> None:
    with pytest.raises(RuntimeError, match="inside"), seeded(7, 3, 1, 0):
        raise RuntimeError("inside")
