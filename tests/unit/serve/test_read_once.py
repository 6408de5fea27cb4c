"""What is read once a model: shared, read again after a failure, and its errors told."""

from __future__ import annotations

import asyncio

import pytest

from ironcliw.errors import ModelLoadError, UnavailableError
from serve.read_once import ReadOnce


class Files:
    """Reads names; what `failing` holds is raised instead."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.open = asyncio.Event()
        self.open.set()

    async def read(self, model_id: str) -> str:
        self.reads.append(model_id)
        await self.open.wait()
        if model_id in self.failing:
            raise self.failing[model_id]
        return model_id.upper()


async def test_all_who_wait_share_one_reading() -> None:
    files = Files()
    files.open.clear()
    once = ReadOnce(files.read)
    waiting = [asyncio.create_task(once.get("a")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # one that leaves does not cancel it for the others
    files.open.set()
    assert await waiting[1] == await waiting[2] == "A"
    assert await once.get("a") == "A"
    assert files.reads == ["a"]


async def test_a_failure_is_told_until_it_is_mended() -> None:
    files = Files()
    files.failing = {"a": ModelLoadError("a is damaged"), "b": UnavailableError("b is away")}
    once = ReadOnce(files.read)
    for model_id, error in files.failing.items():
        with pytest.raises(type(error), match=error.args[0]):
            await once.get(model_id)
    assert once.errors() == {"a": "a is damaged"}, "only what lies with the files"
    files.failing.clear()
    assert await once.get("a") == "A"
    assert once.errors() == {}


async def test_what_is_forgotten_is_read_again() -> None:
    files = Files()
    once = ReadOnce(files.read)
    await once.get("a")
    once.forget("a")
    once.forget("b")
    await once.get("a")
    assert files.reads == ["a", "a"]
