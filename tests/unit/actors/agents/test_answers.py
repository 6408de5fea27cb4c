"""Late answers: kept for senders that fetch them, freed for those that are gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.agents import answers
from actors.agents.answers import LateAnswers
from actors.agents.link import HostLostError
from actors.steps import agent_call


class Clock:
    """Stands in for a loop's clock, and shows what a test sets."""

    now = 100.0

    def time(self) -> float:
        return self.now


def clocked() -> tuple[LateAnswers, Clock]:
    """Late answers of which time passes as a test says."""
    late: Any = LateAnswers()
    late._loop = Clock()
    return late, late._loop


async def test_answers_are_fetched_once() -> None:
    late = LateAnswers()
    late.keep("a", "1", (True, "one"))
    late.keep("b", "2", (True, "two"))
    assert await late.collect("a") == [("1", (True, "one"))]
    assert late.waiting
    waiting = asyncio.create_task(late.collect("a"))
    await asyncio.sleep(0)
    late.keep("a", "3", (True, "three"))
    assert await waiting == [("3", (True, "three"))]
    assert await late.collect("b") == [("2", (True, "two"))]
    assert not late.waiting


async def test_who_waits_is_told_that_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "COLLECT_SECONDS", 0.01)
    late = LateAnswers()
    assert await late.collect("a") == []


async def test_what_nobody_fetches_is_freed() -> None:
    late, clock = clocked()
    late.keep("gone", "1", (True, "x"))
    clock.now += answers.FORGET_SECONDS
    late.forget_the_gone()
    assert late.waiting
    clock.now += 1.0
    late.forget_the_gone()
    assert not late.waiting
    assert late._senders
    clock.now += answers.GONE_SECONDS
    late.forget_the_gone()
    assert not late._senders


async def test_one_that_comes_back_is_told_what_was_not_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    late, clock = clocked()
    late.keep("away", "1", (True, "x"))
    clock.now += answers.FORGET_SECONDS + 1.0
    late.forget_the_gone()
    assert not late.waiting
    assert "1 answers for away are dropped: it has not asked for 61 s" in caplog.text
    late.keep("away", "2", (True, "y"))
    [(id_, (good, error))] = await late.collect("away")
    assert (id_, good) == ("1", False)
    assert isinstance(error, HostLostError)
    assert "the answer was not fetched for 60 s" in str(error)
    assert await late.collect("away") == [("2", (True, "y"))]


async def test_one_that_still_asks_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "COLLECT_SECONDS", 0.001)
    late, clock = clocked()
    for _ in range(3):
        assert await late.collect("a") == []
        clock.now += answers.FORGET_SECONDS - 1.0
        late.forget_the_gone()
        assert "a" in late._senders
    waiting = asyncio.create_task(late.collect("a"))
    await asyncio.sleep(0)
    late.keep("a", "1", (True, "x"))
    assert await waiting == [("1", (True, "x"))]


def test_it_may_come_back_as_long_as_a_step_asks() -> None:
    assert answers.GONE_SECONDS > agent_call._LONGEST_SECONDS
