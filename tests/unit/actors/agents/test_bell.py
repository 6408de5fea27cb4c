"""The bell: whoever waits is woken, and can be told to wait no more at any moment."""

from __future__ import annotations

import asyncio

import pytest

from actors.agents.bell import Bell


async def test_it_wakes_all_who_wait_and_nobody_for_what_was_before() -> None:
    bell = Bell()
    early = bell.turn
    bell.ring()
    await bell.next(early, 60)
    waiting = [asyncio.create_task(bell.next(bell.turn, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    bell.ring()
    await asyncio.gather(*waiting)


async def test_it_is_not_waited_for_longer_than_that() -> None:
    bell = Bell()
    await bell.next(bell.turn, 0.001)


async def test_whoever_is_cancelled_as_it_rings_is_cancelled() -> None:
    bell = Bell()
    waiting = asyncio.create_task(bell.next(bell.turn, 60))
    await asyncio.sleep(0)
    bell.ring()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
