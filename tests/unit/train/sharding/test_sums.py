"""Sums that depend on nothing but their numbers and the order that is promised."""

from __future__ import annotations

import pytest
import torch

from train.sharding.sums import OrderedReduceScatter, Turn, sums_of_rows


def test_a_rows_sum_does_not_depend_on_the_rows_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(37, 1001, generator=generator, dtype=torch.float64) * 1e3
    whole = sums_of_rows(numbers)
    for first in (0, 1, 20):
        for end in (first + 1, first + 2, 37):
            assert torch.equal(sums_of_rows(numbers[first:end]), whole[first:end])
    torch.testing.assert_close(whole, numbers.sum(1))


@pytest.mark.parametrize("width", [0, 1, 2, 3, 8])
def test_every_number_is_added_once(width: int) -> None:
    found = sums_of_rows(torch.full((2, width), 1.5))
    assert found.tolist() == [1.5 * width] * 2


class _Group:
    def size(self) -> int:
        return 3


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(received: torch.Tensor, sent: torch.Tensor, group: object) -> None:
        received.copy_(sent)  # as if this worker had got from each what it sends to each

    monkeypatch.setattr(torch.distributed, "all_to_all_single", copy)


@pytest.mark.usefixtures("exchange")
def test_rounds_go_on_with_the_sum_and_leave_out_who_is_idle() -> None:
    turn = Turn()
    sums = OrderedReduceScatter(turn)
    rounds = [
        ([1e8, 1.0, -1e8], [True, True, True]),
        ([3.0, 1e30, 5.0], [True, False, True]),
        ([1e9, 1e30, -1e9], [True, False, True]),
    ]
    # in float32 1e8 + 1 is 1e8: another order gives 1 for the first round, and the sum of the last
    # round alone would be 0, and leave 8
    expected = [0.0, 8.0, 0.0]
    for number, (parts, active) in enumerate(rounds):
        turn.number, turn.active = number, active
        output = torch.empty(1)
        sums(output, torch.tensor(parts), _Group(), None)  # type: ignore[arg-type]
        assert output.item() == expected[number]
    sums.forget()
    turn.number, turn.active = 0, [False, True, True]
    output = torch.empty(1)
    sums(output, torch.tensor([1.0, 2.0, 3.0]), _Group(), None)  # type: ignore[arg-type]
    assert output.item() == 5.0
