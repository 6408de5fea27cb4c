"""The way to the control actor: it is found again, and what may be repeated is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from actors.control_link import NAME, NAMESPACE, NOT_READY, ControlLink
from ironcliw.errors import NotFoundError, UnavailableError


class Actor:
    """Answers with the next of what was scripted; `None`: it dies."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []
        self.answer = self.status = self

    def remote(self, *asked: Any) -> Any:
        self.asked.append(asked)
        return self._answer()

    async def _answer(self) -> Any:
        answer = self.answers.pop(0)
        if answer is None:
            raise RayActorError
        return answer


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `ray.get_actor` finds, call by call; the last one stays."""
    actors: list[Any] = []

    def get_actor(name: str, namespace: str) -> Any:
        assert (name, namespace) == (NAME, NAMESPACE)
        actor = actors.pop(0) if len(actors) > 1 else actors[0]
        if actor is None:
            raise ValueError("no actor has this name")
        return actor

    monkeypatch.setattr(ray, "get_actor", get_actor)
    return actors


async def test_an_answer_and_an_error(found: list[Any]) -> None:
    actor = Actor((None, 7), (NotFoundError("there is none"), None))
    found.append(actor)
    link = ControlLink()
    assert await link.workflows("get", repeatable=True, workflow_id="w") == 7
    assert actor.asked == [("workflows", "get", {"workflow_id": "w"})]
    with pytest.raises(NotFoundError, match="there is none"):
        await link.workflows("get", repeatable=True)


async def test_what_may_be_repeated_waits_until_it_is_back(found: list[Any]) -> None:
    found += [Actor(None), None, Actor((None, "again"))]
    assert await ControlLink().workflows("get", repeatable=True) == "again"


async def test_what_may_not_is_not(found: list[Any]) -> None:
    second = Actor((None, "twice"))
    found += [Actor(None), second]
    with pytest.raises(UnavailableError, match="are not there now") as caught:
        await ControlLink().workflows("submit", repeatable=False)
    assert (caught.value.retry_after, second.asked) == (1.0, [])


async def test_what_was_not_begun_may_wait(found: list[Any]) -> None:
    found += [None, Actor((None, "begun"))]
    assert await ControlLink().workflows("submit", repeatable=False) == "begun"


async def test_one_that_is_not_ready_is_asked_again(found: list[Any]) -> None:
    not_ready = UnavailableError("it starts", code=NOT_READY)
    found.append(Actor((not_ready, None), (not_ready, None), (None, "done")))
    assert await ControlLink().workflows("submit", repeatable=False) == "done"
    found[:] = [Actor(*[(not_ready, None)] * 10)]
    with pytest.raises(UnavailableError, match="it starts"):
        await ControlLink(patience_seconds=0.3).workflows("get", repeatable=True)


async def test_patience_has_an_end(found: list[Any]) -> None:
    found.append(None)
    with pytest.raises(UnavailableError, match="no actor has this name"):
        await ControlLink(patience_seconds=0.3).workflows("get", repeatable=True)


async def test_the_status_is_told_at_once_or_not_at_all(
    found: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = ControlLink()
    found.append(Actor({"state": "leading"}))
    assert await link.status() == {"state": "leading"}
    away = {"state": "away", "leader": None, "error": None}
    link = ControlLink()
    for one in (None, Actor(None)):
        found[:] = [one]
        assert await link.status() == away

    class Busy(Actor):
        async def _answer(self) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr("actors.control_link._STATUS_SECONDS", 0.01)
    found[:] = [Busy()]
    assert await link.status() == away
