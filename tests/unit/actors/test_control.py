"""The end of the control actor: whoever asks for it waits for it, and nobody breaks it off."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actors import control
from actors.control import Control
from ironcliw.settings import Settings


class Parts:
    """All that runs in it; comes to an end when its gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.closed = 0

    async def close(self, _: float) -> None:
        self.closed += 1
        await self.gate.wait()


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    released: list[Any] = []
    context = SimpleNamespace(current_actor=SimpleNamespace(run=SimpleNamespace(remote=int)))
    monkeypatch.setattr(control.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(control.logs, "configure", lambda _: None)
    monkeypatch.setattr(control, "_release", lambda *given: released.append(given))
    return released


def composed(parts: Parts) -> Control:
    made: Any = Control(Settings())
    made._made, made._store, made._lease = parts, object(), object()
    found: Control = made
    return found


async def test_a_second_end_waits_for_the_first(released: list[Any]) -> None:
    parts = Parts()
    made = composed(parts)
    first = asyncio.create_task(made.close())
    await asyncio.sleep(0)
    second = asyncio.create_task(made.close())
    await asyncio.wait([second], timeout=0.1)
    assert not second.done()
    assert (await made.status())["state"] == "stopping"
    parts.gate.set()
    await asyncio.gather(first, second)
    assert parts.closed == len(released) == 1


async def test_whoever_asked_and_went_away_does_not_break_it_off(released: list[Any]) -> None:
    parts = Parts()
    made = composed(parts)
    first = asyncio.create_task(made.close())
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    parts.gate.set()
    await made.close()
    assert parts.closed == len(released) == 1
