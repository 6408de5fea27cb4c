"""Asking in a thread: nobody waits, nobody asks twice, old answers are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.control.poller import Poller
from cluster.testing.clocks import ManualClock
from tests.unit.cluster.fake_head import Immediate, Later


def fail() -> str:
    raise OSError("no answer")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


def make(executor: Immediate, clock: ManualClock, ask: Callable[[], str]) -> Poller[str]:
    return Poller(executor, ask, 2.0, clock, (OSError,))


def test_one_question_at_a_time(clock: ManualClock) -> None:
    threads = Later()
    poller = make(threads, clock, lambda: "")
    for _ in range(10):
        assert poller.poll() is None
        clock.advance(2)
    assert len(threads.futures) == 1
    threads.futures[0].set_result("answer")
    assert poller.poll() == "answer"
    assert len(threads.futures) == 2
    # as old as its question
    assert poller.fresh(19.9) is None
    assert poller.fresh(20) == "answer"


def test_an_answer_is_new_once(clock: ManualClock) -> None:
    poller = make(Immediate(), clock, lambda: "answer")
    assert poller.poll() is None
    assert poller.poll() == "answer"
    assert poller.poll() is None
    assert poller.fresh(1) == "answer"


def test_a_failure_keeps_the_answer_before_it(clock: ManualClock) -> None:
    answers = iter([lambda: "answer", fail])
    poller = make(Immediate(), clock, lambda: next(answers)())
    poller.poll()
    clock.advance(2)
    assert poller.poll() == "answer"
    clock.advance(2)
    poller.poll()
    assert isinstance(poller.error, OSError)
    assert poller.fresh(4) == "answer"
    assert poller.fresh(3) is None


def test_a_defect_is_raised(clock: ManualClock) -> None:
    def defect() -> str:
        raise KeyError("defect")

    poller = make(Immediate(), clock, defect)
    poller.poll()
    with pytest.raises(KeyError, match="defect"):
        poller.poll()
