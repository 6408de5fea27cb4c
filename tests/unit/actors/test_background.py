"""Work that nobody waits for goes on, whatever it raises."""

from __future__ import annotations

import asyncio

import pytest

from actors import background
from actors.background import keep_going
from tests.waiting import until


async def test_what_fails_or_ends_is_begun_anew_and_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.01)
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise ValueError("a bug")
        if begun > 2:
            await asyncio.Event().wait()

    task = asyncio.create_task(keep_going("the sweeper", work))
    await until(lambda: begun == 3)
    assert "the sweeper has failed; it is begun anew" in caplog.text
    assert "ValueError: a bug" in caplog.text
    assert "the sweeper has ended by itself; it is begun anew" in caplog.text
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == 3


async def test_the_pause_grows_and_begins_anew_after_a_good_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    now = 0.0

    async def rest(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            raise asyncio.CancelledError

    async def work() -> None:
        nonlocal now
        now += 100.0 if len(pauses) == 7 else 1.0
        raise ValueError("a bug")

    monkeypatch.setattr("actors.background.asyncio.sleep", rest)
    monkeypatch.setattr("actors.background.time.monotonic", lambda: now)
    with pytest.raises(asyncio.CancelledError):
        await keep_going("the sweeper", work)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 1.0, 2.0]
