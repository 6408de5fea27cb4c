"""What the scheduler believes about the decoder's speed."""

from __future__ import annotations

import pytest

from serve.generation.step_time import StepTime


def learned() -> StepTime:
    """10 ms for 4 streams, 0.1 ms a prompt token."""
    time = StepTime()
    for _ in range(20):
        time.observe(4, 0, 0.010)
        time.observe(4, 50, 0.015)
    return time


def test_nothing_is_known_at_first() -> None:
    assert StepTime().decode(1) is None
    assert StepTime().prompt_tokens(1, 2.0) is None


def test_a_chunk_takes_what_the_stall_allows() -> None:
    assert learned().prompt_tokens(4, 2.0) in (99, 100)
    assert learned().prompt_tokens(4, 1.5) in (49, 50)


def test_steps_without_streams_are_a_first_guess() -> None:
    time = StepTime()
    time.observe(0, 500, 0.5)
    time.observe(2, 0, 0.010)
    assert time.prompt_tokens(2, 2.0) == 10
    time.observe(2, 10, 0.011)
    assert time.prompt_tokens(2, 2.0) in (99, 100)
    time.observe(0, 500, 5.0)
    assert time.prompt_tokens(2, 2.0) in (99, 100)


def test_one_slow_chunk_is_not_believed_two_are() -> None:
    time = learned()
    time.observe(4, 50, 1.0)
    assert time.prompt_tokens(4, 2.0) in (99, 100)
    time.observe(4, 50, 1.0)
    slower = time.prompt_tokens(4, 2.0)
    assert slower is not None
    assert slower < 20


def test_slow_steps_do_not_move_the_median() -> None:
    time = learned()
    for _ in range(7):
        time.observe(4, 0, 1.0)
    assert time.decode(4) == pytest.approx(0.010)
    time.observe(4, 0, 1.0)
    assert time.decode(4) == pytest.approx(1.0)


def test_a_number_of_streams_never_seen() -> None:
    time = learned()
    assert time.decode(8) == pytest.approx(0.010)  # at least as long as fewer
    assert time.decode(2) == pytest.approx(0.005)  # at least its share of more
