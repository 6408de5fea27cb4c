"""The end of the control actor: whoever asks for it waits for it, and nobody breaks it off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from actors import control
from actors.composition import Composition
from actors.control import Control
from ironcliw.errors import UnavailableError
from ironcliw.settings import Settings
from tests.waiting import until


class Parts:
    """All that runs in it; comes to an end when its gate opens."""

    parts: ClassVar[dict[str, Any]] = {}
    exporter = SimpleNamespace(status=lambda: {"agents": {}})

    def __init__(self, error: Exception | None = None) -> None:
        self.gate = asyncio.Event()
        self.found = asyncio.Event()
        self.closed = 0
        self.watches = False
        self.began: list[Any] = []
        self.executor = SimpleNamespace(started_at=lambda *told: self.began.append(told))
        self.orchestrator = SimpleNamespace(until_ended=asyncio.Event().wait)
        self._error = error

    def background(self) -> dict[str, Any]:
        return {"the watch of machines": self._watch}

    async def _watch(self) -> None:
        self.watches = True
        await asyncio.Event().wait()

    async def start(self) -> None:
        """Steps have begun already; agents are still being found."""
        await self.found.wait()
        if self._error is not None:
            raise self._error

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


class Ended(BaseException):
    """The process has."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whom `down` waits for."""
    opened: list[Any] = []

    async def listen(_folder: Path, _name: str, close: Any) -> None:
        opened.append(close)

    monkeypatch.setattr(control.farewell, "listen", listen)
    return opened


@pytest.fixture
async def leads(
    released: list[Any], opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """Runs a control actor of those parts; gives it, and its run."""
    lease, runs = SimpleNamespace(holder="me"), []

    async def ours(*_: Any) -> Any:
        return lease

    def exit_(_: int) -> None:
        raise Ended

    def run(parts: Parts) -> tuple[Control, asyncio.Task[None]]:
        async def compose(*_: Any) -> Parts:
            return parts

        monkeypatch.setattr(control, "compose", compose)
        made = Control(Settings())
        runs.append(asyncio.create_task(made.run()))
        return made, runs[-1]

    for name, found in {"_open_store": object, "_renew": lambda *_: None}.items():
        monkeypatch.setattr(control, name, lambda *_, found=found: found())
    monkeypatch.setattr(control, "wait_for_lease", ours)
    monkeypatch.setattr(control, "_TOLD_SECONDS", 0.0)
    monkeypatch.setattr(control.os, "_exit", exit_)
    yield run
    for one in runs:
        one.cancel()
    await asyncio.gather(*runs, return_exceptions=True)


async def test_what_steps_tell_is_heard_while_agents_are_found(
    leads: Any, opened: list[Any]
) -> None:
    parts = Parts()
    made, _ = leads(parts)
    await until(lambda: parts.watches)
    await made.step_started("w/s", 1, "node")
    assert parts.began == [("w/s", 1, "node")]
    assert opened == [made.close], "`down` would cut the steps that run"
    assert (await made.status())["state"] == "starting"
    parts.found.set()
    assert await made.ready() is None
    assert (await made.status())["state"] == "leading"


async def test_an_end_that_comes_while_agents_are_found(leads: Any, released: list[Any]) -> None:
    parts = Parts()
    made, run = leads(parts)
    await until(lambda: parts.watches)
    parts.gate.set()
    await made.close()
    assert parts.closed == len(released) == 1
    await asyncio.wait([run], timeout=0.1)
    assert not run.done() or run.exception() is None, "Ray would start it again"


async def test_steps_that_have_begun_end_in_order_where_agents_cannot_be_found(
    leads: Any, released: list[Any]
) -> None:
    parts = Parts(UnavailableError("Ray does not say who is there"))
    made, run = leads(parts)
    await until(lambda: parts.watches)
    parts.found.set()
    assert "Ray does not say" in str(await made.ready())
    await until(lambda: parts.closed)
    assert not run.done()
    parts.gate.set()
    with pytest.raises(Ended):
        await run
    assert len(released) == 1


async def test_one_part_that_cannot_start_keeps_none_of_the_others_at_it() -> None:
    cancelled = asyncio.Event()

    class Slow:
        async def start(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    class Broken:
        async def start(self) -> None:
            await asyncio.sleep(0)
            raise UnavailableError("somebody else leads")

    unused: Any = None
    made: Any = {"agents": Slow(), "orchestrator": Broken(), "journal": unused, "log": unused}
    found = Composition(parts={}, executor=unused, exporter=unused, pruner=unused, **made)
    with pytest.raises(UnavailableError, match="somebody else leads"):
        await found.start()
    await asyncio.wait_for(cancelled.wait(), 10)
