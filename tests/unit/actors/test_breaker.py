"""The circuit breaker: when it opens, how it tries again, and that the trial is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.breaker import Breaker, Breakers, BreakerState, OpenCircuit
from ironcliw.errors import UnavailableError


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker("think", failures=3, pause_seconds=2.0, longest_pause_seconds=8.0)
    for _ in range(3):
        breaker.enter(now)
        breaker.failed(now)
    return breaker


def test_it_opens_after_failures_in_a_row_alone() -> None:
    breaker = Breaker("think", failures=3)
    for _ in range(5):
        for _ in range(2):
            breaker.enter(0.0)
            breaker.failed(0.0)
        breaker.enter(0.0)
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_an_open_one_says_when_to_come_back() -> None:
    with pytest.raises(UnavailableError, match="'think' failed 3 times in a row") as caught:
        opened().enter(0.5)
    assert caught.value.retry_after == pytest.approx(1.5)
    assert caught.value.code == "circuit_open"


def test_whoever_wants_to_know_is_told_of_changes_alone() -> None:
    breakers, seen = Breakers(), list[list[str]]()
    breakers.on_change = lambda: seen.append([one.state for one in breakers.open_now(0.0)])
    breaker = breakers.of("think")
    breaker.succeeded()
    for _ in range(8):
        breaker.failed(0.0)
    breaker.failed(0.0)
    breaker.enter(100.0)
    breaker.leave()
    breaker.enter(100.0)
    breaker.succeeded()
    breaker.succeeded()
    assert seen == [["open"], ["trial"], ["open"], ["trial"], []]


def test_one_trial_at_a_time_decides() -> None:
    breaker = opened()
    breaker.enter(2.0)
    with pytest.raises(UnavailableError):
        breaker.enter(2.0)
    breaker.succeeded()
    breaker.enter(2.0)
    assert breaker.state is BreakerState.CLOSED


def test_the_pause_doubles_up_to_its_limit() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(4):
        with pytest.raises(UnavailableError) as caught:
            breaker.enter(now)
        pauses.append(caught.value.retry_after)
        now += pauses[-1]
        breaker.enter(now)
        breaker.failed(now)
    assert pauses == [2.0, 4.0, 8.0, 8.0]


def test_a_trial_that_did_not_happen_may_be_made_again() -> None:
    breaker = opened()
    breaker.enter(2.0)
    breaker.leave()
    breaker.enter(2.0)
    assert breaker.state is BreakerState.TRIAL


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 30))))
def test_it_always_lets_somebody_through_in_the_end(history: list[tuple[bool, float]]) -> None:
    breaker, now = Breaker("think", failures=2, longest_pause_seconds=60.0), 0.0
    for good, step in history:
        now += step
        try:
            breaker.enter(now)
        except UnavailableError as error:
            assert 0 < error.retry_after <= 60.0
        else:
            breaker.ended(now, failed=not good)
    breaker.enter(now + 60.0)


def test_each_capability_has_its_own() -> None:
    breakers = Breakers()
    for _ in range(20):
        breakers.of("bad").failed(0.0)
        breakers.of(None).failed(0.0)
    breakers.of("good").enter(0.0)
    breakers.of(None).enter(0.0)
    assert breakers.open() == ["bad"]
    assert breakers.open_now(0.5) == [OpenCircuit("bad", "open", 20, 1.5)]
    breakers.of("bad").enter(2.0)
    assert breakers.open_now(2.0) == [OpenCircuit("bad", "trial", 20, 0.0)]
