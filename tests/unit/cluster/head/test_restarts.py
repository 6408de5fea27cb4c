"""The rule of restarts: at once, then later and later, and forgiven after a long life."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.head.restarts import LONGEST_SECONDS, STABLE_SECONDS, Restarts

SHORT = st.floats(0, STABLE_SECONDS, exclude_max=True)


def test_the_pauses_double_up_to_a_minute() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(0.1) for _ in range(10)]
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_long_life_is_forgiven() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.pause(1.0)
    assert restarts.pause(STABLE_SECONDS) == 0
    assert restarts.pause(1.0) == 1


@given(st.lists(SHORT, min_size=1, max_size=2000))
def test_pauses_of_short_lives_never_shrink_and_stay_bounded(lives: list[float]) -> None:
    restarts = Restarts()
    pauses = [restarts.pause(lived) for lived in lives]
    assert pauses == sorted(pauses)
    assert all(0 <= pause <= LONGEST_SECONDS for pause in pauses)
