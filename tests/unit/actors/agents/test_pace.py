"""When calls leave, and with how many messages: rules that hold whatever comes when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.pace import BATCH, CALLS, ENOUGH, GAP_SECONDS, Pace


def leave(pace: Pace, waiting: int, now: float) -> list[int]:
    """The batches in which so many leave at a moment."""
    sizes = []
    while size := pace.next_batch(waiting, now):
        pace.left(now)
        sizes.append(size)
        waiting -= size
    return sizes


@pytest.mark.parametrize(
    ("waiting", "sizes"),
    [
        (0, []),
        (1, [1]),
        (ENOUGH + 8, [ENOUGH + 8]),
        (3 * ENOUGH + 1, [33, 32, 32]),
        (8 * ENOUGH, [64, 64, 64, 64]),
        (10_000, [BATCH] * CALLS),
    ],
)
def test_many_at_once_are_parted(waiting: int, sizes: list[int]) -> None:
    assert leave(Pace(), waiting, 0.0) == sizes


def test_few_wait_for_company_while_a_call_is_on_its_way() -> None:
    pace = Pace()
    assert leave(pace, 1, 0.0) == [1]
    assert leave(pace, ENOUGH - 1, GAP_SECONDS / 2) == []
    assert leave(pace, ENOUGH, GAP_SECONDS / 2) == [ENOUGH]  # many do not
    assert leave(pace, 1, GAP_SECONDS) == []
    assert leave(pace, 1, 2 * GAP_SECONDS) == [1]


def test_few_leave_as_soon_as_all_is_answered() -> None:
    pace = Pace()
    leave(pace, 1, 0.0)
    pace.returned()
    assert leave(pace, 2, GAP_SECONDS / 10) == [2]


@given(st.lists(st.tuples(st.integers(0, 600), st.booleans(), st.floats(0.0, 0.003))))
def test_nothing_is_forgotten(steps: list[tuple[int, bool, float]]) -> None:
    pace, waiting, now = Pace(), 0, 0.0
    for posted, returns, passed in steps:
        now += passed
        waiting += posted
        if returns and pace.calls:
            pace.returned()
        sizes = leave(pace, waiting, now)
        waiting -= sum(sizes)
        assert all(0 < size <= BATCH for size in sizes)
        assert 0 <= pace.calls <= CALLS
        # whatever still waits does so for a call to return, or for a moment
        assert not waiting or pace.calls == CALLS or (pace.calls and now < pace.due)
    while waiting or pace.calls:
        now += GAP_SECONDS
        before = waiting, pace.calls
        waiting -= sum(leave(pace, waiting, now))
        if pace.calls:
            pace.returned()
        assert (waiting, pace.calls) < before
