"""How many threads a step gets."""

from __future__ import annotations

import pytest
import torch

from serve.engines.threads import ThreadChoice, number_of_threads, threads_for


def run(choice: ThreadChoice, seconds: dict[int, float], steps: int) -> list[int]:
    """Threads of each step on a machine where a step takes so long by the number of threads."""
    picked = []
    for _ in range(steps):
        picked.append(choice.pick())
        choice.learn(seconds[picked[-1]])
    return picked


@pytest.mark.parametrize(("seconds", "best"), [({1: 1.0, 4: 0.6}, 4), ({1: 1.0, 4: 6.0}, 1)])
def test_the_faster_is_found_and_kept(seconds: dict[int, float], best: int) -> None:
    picked = run(ThreadChoice(4), seconds, 2000)
    assert picked[100:].count(best) > 0.97 * len(picked[100:])


def test_it_follows_a_machine_that_changes() -> None:
    choice = ThreadChoice(2)
    run(choice, {1: 1.0, 2: 0.7}, 300)
    assert choice.pick() == 2
    busy = run(choice, {1: 1.5, 2: 9.0}, 1500)
    assert busy[-500:].count(1) > 480
    assert run(choice, {1: 1.0, 2: 0.7}, 4000)[-1] == 2


def test_trials_in_vain_become_rare() -> None:
    picked = run(ThreadChoice(2), {1: 1.0, 2: 5.0}, 8000)
    assert picked[:200].count(2) >= 4
    assert 2 <= picked[4000:].count(2) <= 10


def test_somebody_who_comes_after_a_long_quiet_time_is_noticed_at_once() -> None:
    choice = ThreadChoice(2, first=2)
    quiet = run(choice, {1: 1.0, 2: 0.6}, 5000)
    assert quiet[0] == 2
    busy = run(choice, {1: 1.5, 2: 6.0}, 100)
    assert busy[:4].count(1) >= 2
    assert busy[10:].count(1) > 80


def test_a_step_in_which_threads_wake_up_does_not_count() -> None:
    choice, trials = ThreadChoice(2), 0
    for _ in range(400):
        if choice.pick() == 2:
            trials += 1
            choice.learn(5.0 if trials % 2 else 0.5)
        else:
            trials = 0
            choice.learn(1.0)
        if trials > 2:
            return
    pytest.fail("two threads were faster once awake, and were never kept")


def test_one_core_has_no_choice() -> None:
    assert set(run(ThreadChoice(1), {1: 1.0}, 100)) == {1}


def test_pytorch_gets_its_threads_back() -> None:
    usual = torch.get_num_threads()
    with pytest.raises(KeyError, match="inside"), number_of_threads(usual + 1):
        assert torch.get_num_threads() == usual + 1
        raise KeyError("inside")
    assert torch.get_num_threads() == usual
    with threads_for(torch.device("cpu"), 10):
        assert torch.get_num_threads() == 1
    with threads_for(torch.device("cpu"), 1000):
        assert torch.get_num_threads() == usual
