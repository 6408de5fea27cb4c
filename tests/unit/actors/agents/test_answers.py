"""Late answers: kept for senders that fetch them, freed for those that are gone."""

from __future__ import annotations

import asyncio

import pytest

from actors.agents import answers
from actors.agents.answers import LateAnswers
from actors.agents.link import HostLostError
from actors.steps import agent_call
from tests.unit.actors.agents.waiting import until


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


async def test_what_nobody_fetches_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "FORGET_SECONDS", 0.05)
    late = LateAnswers()
    late.keep("gone", "1", (True, "x"))

    def freed() -> bool:
        late.forget_the_gone()
        return not late.waiting

    assert not freed()
    await until(freed)
    assert late._senders
    monkeypatch.setattr(answers, "GONE_SECONDS", 0.05)
    late.forget_the_gone()
    assert not late._senders


async def test_one_that_comes_back_is_told_what_was_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answers, "FORGET_SECONDS", 0.05)
    late = LateAnswers()
    late.keep("away", "1", (True, "x"))

    def freed() -> bool:
        late.forget_the_gone()
        return not late.waiting

    await until(freed)
    assert "1 answers for away are dropped: it has not asked" in caplog.text
    late.keep("away", "2", (True, "y"))
    [(id_, (good, error))] = await late.collect("away")
    assert (id_, good) == ("1", False)
    assert isinstance(error, HostLostError)
    assert "the answer was not fetched for 0.05 s" in str(error)
    assert await late.collect("away") == [("2", (True, "y"))]


async def test_one_that_still_asks_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "COLLECT_SECONDS", 0.01)
    monkeypatch.setattr(answers, "FORGET_SECONDS", 0.2)
    late = LateAnswers()
    for _ in range(30):
        assert await late.collect("a") == []
        late.forget_the_gone()
        assert "a" in late._senders
    waiting = asyncio.create_task(late.collect("a"))
    await asyncio.sleep(0)
    late.keep("a", "1", (True, "x"))
    assert await waiting == [("1", (True, "x"))]


def test_it_may_come_back_as_long_as_a_step_asks() -> None:
    assert answers.GONE_SECONDS > agent_call._LONGEST_SECONDS
