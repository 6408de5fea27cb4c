"""Late answers: kept for senders that fetch them, freed for those that are gone."""

from __future__ import annotations

import asyncio

import pytest

from actors.agents import answers
from actors.agents.answers import LateAnswers
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

    def forgotten() -> bool:
        late.forget_the_gone()
        return not late.waiting and not late._senders

    assert not forgotten()
    await until(forgotten)


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
