"""The way to a host through Ray: its actor is looked up once, and calls keep their order."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import pytest
import ray

from actors.agents.link import HostGoneError
from actors.agents.messages import Message, Parcel, new_id, to_parcel
from actors.agents.ray_calls import RayRemote


class Actor:
    """A host's actor that keeps what it is given."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.deliver = self

    def remote(self, sender: str, pickled: bytes) -> Any:
        parcels = pickle.loads(pickled)
        self.bodies += [parcel.body for parcel in parcels]
        return self._answer(len(parcels))

    async def _answer(self, count: int) -> bytes:
        return pickle.dumps([(True, None)] * count)


class Names:
    """Ray's, which answer when a test says so."""

    def __init__(self, actor: Actor | None) -> None:
        self.actor = actor
        self.asked = 0
        self.gate = threading.Event()

    def get_actor(self, name: str, namespace: str) -> Actor:
        self.asked += 1
        assert self.gate.wait(60)
        if self.actor is None:
            raise ValueError("no actor has this name")
        return self.actor


def parcels(*bodies: int) -> list[Parcel]:
    return [
        to_parcel(Message(new_id(), "agent", body, "note"), 0.0, wants_reply=False)
        for body in bodies
    ]


async def test_the_first_calls_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(Actor())
    monkeypatch.setattr(ray, "get_actor", names.get_actor)
    remote = RayRemote.named("host-1")
    calls = [
        asyncio.create_task(remote.deliver("sender", parcels(number, number)))
        for number in range(5)
    ]
    await asyncio.sleep(0)
    names.gate.set()
    assert await asyncio.gather(*calls) == [[(True, None)] * 2] * 5
    assert names.actor is not None
    assert names.actor.bodies == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert names.asked == 1


async def test_a_host_that_is_gone_is_told_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(None)
    names.gate.set()
    monkeypatch.setattr(ray, "get_actor", names.get_actor)
    remote = RayRemote.named("host-1")
    calls = [remote.deliver("sender", parcels(number)) for number in range(3)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [HostGoneError] * 3
    assert {str(error) for error in errors} == {"host 'host-1' is gone: no actor has this name"}
