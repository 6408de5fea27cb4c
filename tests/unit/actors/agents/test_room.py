"""Senders who wait for room: in turn, and none of them keeps the others out."""

from __future__ import annotations

import asyncio

import pytest

from actors.agents.room import Room
from ironcliw.errors import UnavailableError


async def waiting(room: Room, seconds: float | None = None) -> asyncio.Task[None]:
    task = asyncio.create_task(room.turn(seconds))
    await asyncio.sleep(0)
    return task


async def test_they_are_let_in_one_after_the_other() -> None:
    room = Room()
    first, second = await waiting(room), await waiting(room)
    room.let_in()
    await first
    assert not second.done()
    assert room
    room.let_in()
    await second
    assert not room


async def test_one_that_gives_up_has_no_place() -> None:
    room = Room()
    first, second = await waiting(room, 0.01), await waiting(room)
    with pytest.raises(TimeoutError):
        await first
    room.let_in()
    await second
    with pytest.raises(TimeoutError):
        await room.turn(0.01)
    assert not room


async def test_one_that_is_let_in_and_gives_up_lets_the_next_in() -> None:
    room = Room()
    first, second = await waiting(room), await waiting(room)
    room.let_in()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 60)


async def test_all_are_refused() -> None:
    room = Room()
    tasks = [await waiting(room) for _ in range(3)]
    room.refuse(UnavailableError("it is being stopped"))
    for task in tasks:
        with pytest.raises(UnavailableError, match="it is being stopped"):
            await task
    assert not room
