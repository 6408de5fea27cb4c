"""Passes that workers share: the sums of one worker, to the bit, and a notice that ends all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
import torch

from train.loop.reduce import Alone, Group
from train.loop.shares import InterruptedEvaluationError, sum_in_shares

PIECES = 7


class Meeting:
    """Workers of a test, each a thread."""

    def __init__(self, size: int) -> None:
        self.told: list[list[float]] = [[]] * size
        self.barrier = threading.Barrier(size, timeout=60)


class Member:
    def __init__(self, meeting: Meeting, rank: int, size: int) -> None:
        self._meeting, self.rank, self.size = meeting, rank, size

    def gather(self, part: torch.Tensor) -> Sequence[torch.Tensor]:
        raise AssertionError("numbers are told, not vectors")

    def numbers(self, mine: Sequence[float]) -> list[list[float]]:
        self._meeting.told[self.rank] = list(mine)
        self._meeting.barrier.wait()
        found = list(self._meeting.told)
        self._meeting.barrier.wait()
        return found

    def agree(self, step: int) -> None:
        raise AssertionError("no steps are compared")


def computed(piece: int) -> tuple[float, float]:
    """Of very different sizes: another order of adding gives other bits."""
    return 0.1 * (piece + 1) * 10.0 ** (4 * (piece % 3)), float(piece)


def in_threads(
    workers: int, notice: Callable[[int], bool] = lambda rank: False
) -> list[tuple[list[float] | None, list[int]]]:
    """For each worker what it has at the end, and which pieces it computed."""
    meeting = Meeting(workers)
    found: list[tuple[list[float] | None, list[int]]] = [(None, []) for _ in range(workers)]

    def run(rank: int) -> None:
        done: list[int] = []

        def compute(piece: int) -> tuple[float, float]:
            done.append(piece)
            return computed(piece)

        member: Group = Alone() if workers == 1 else Member(meeting, rank, workers)
        sums = None
        try:
            sums = sum_in_shares(member, range(PIECES), compute, 2, lambda: notice(rank))
        except InterruptedEvaluationError:
            pass
        found[rank] = sums, done

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_every_number_of_workers_gives_the_bits_of_one() -> None:
    ((expected, all_pieces),) = in_threads(1)
    assert all_pieces == list(range(PIECES))
    backwards = 0.0
    for piece in reversed(range(PIECES)):
        backwards += computed(piece)[0]
    assert expected is not None
    assert expected[0] != backwards, "the numbers do not tell one order from another"
    for workers in (2, 3, 9):
        found = in_threads(workers)
        assert [sums for sums, _ in found] == [expected] * workers
        assert sorted(piece for _, done in found for piece in done) == all_pieces


@pytest.mark.parametrize("noticed", [0, 2])
def test_a_notice_to_one_ends_the_work_of_all(noticed: int) -> None:
    asked = [0] * 3

    def notice(rank: int) -> bool:
        asked[rank] += 1
        return rank == noticed and asked[rank] == 2

    found = in_threads(3, notice)
    assert [sums for sums, _ in found] == [None] * 3
    # the first round, and of the second what the others had begun
    assert [done for _, done in found] == [
        [rank] if rank == noticed else [rank, rank + 3] for rank in range(3)
    ]


def test_a_piece_that_is_left_in_the_middle_ends_the_work() -> None:
    def compute(piece: int) -> tuple[float]:
        raise InterruptedEvaluationError

    with pytest.raises(InterruptedEvaluationError):
        sum_in_shares(Alone(), [1], compute, 1, lambda: False)


def test_nothing_to_compute_is_zero() -> None:
    nothing: list[int] = []
    assert sum_in_shares(Alone(), nothing, computed, 2, lambda: True) == [0.0, 0.0]
