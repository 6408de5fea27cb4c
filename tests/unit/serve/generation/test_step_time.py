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
    time.observe(2, 60, 0.016)
    assert time.prompt_tokens(2, 2.0) in (99, 100)
    time.observe(0, 500, 5.0)
    assert time.prompt_tokens(2, 2.0) in (99, 100)


def test_a_small_chunk_that_seemed_to_cost_nothing_is_followed_by_twice_as_much() -> None:
    time = StepTime()
    time.observe(2, 0, 0.010)
    time.observe(2, 10, 0.010)
    assert time.prompt_tokens(2, 2.0) == 20
    time.observe(2, 20, 0.012)
    assert time.prompt_tokens(2, 2.0) == 40


def test_the_rest_of_a_prompt_does_not_make_the_next_one_start_small() -> None:
    time = learned()
    time.observe(4, 100, 0.020)
    time.observe(4, 3, 0.0103)
    assert time.prompt_tokens(4, 2.0) in (99, 100)


def test_a_dearer_chunk_counts_for_more_than_a_cheaper_one() -> None:
    dearer, cheaper = learned(), learned()
    before = dearer.prompt_tokens(4, 2.0)
    assert before is not None
    dearer.observe(4, before, 0.010 + 2 * 0.010)
    cheaper.observe(4, before, 0.010 + 0.5 * 0.010)
    smaller, larger = dearer.prompt_tokens(4, 2.0), cheaper.prompt_tokens(4, 2.0)
    assert smaller is not None
    assert larger is not None
    assert smaller <= before / 1.6
    assert before < larger < 1.3 * before


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
