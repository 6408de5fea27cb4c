"""What runs on a head is told before its end, and waited for."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.head.farewell import listen, say_farewell
from ironcliw.settings import Settings


@pytest.fixture
def settings() -> Iterator[Settings]:
    # short: a socket's path may have 103 bytes
    with tempfile.TemporaryDirectory(prefix="icw-") as folder:
        settings = Settings()
        cluster = settings.cluster.model_copy(update={"temp_dir": Path(folder), "stop_seconds": 0})
        yield settings.model_copy(update={"cluster": cluster})


def test_where_nobody_listens_nobody_is_waited_for(settings: Settings) -> None:
    told: list[str] = []
    say_farewell(settings, told.append)
    assert told == []


async def test_whoever_listens_is_waited_for(settings: Settings) -> None:
    told: list[str] = []
    gate, begun = asyncio.Event(), asyncio.Event()

    async def close() -> None:
        begun.set()
        await gate.wait()

    server = await listen(settings.ray_temp_dir, "work", close)
    end = asyncio.create_task(asyncio.to_thread(say_farewell, settings, told.append))
    await begun.wait()
    assert not end.done()
    gate.set()
    await end
    assert told == ["waiting up to 0 s for what runs"]
    server.close()


async def test_whoever_takes_too_long_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.head.farewell._SPARE_SECONDS", 0.1)
    told: list[str] = []
    gate = asyncio.Event()

    async def close() -> None:
        await gate.wait()

    server = await listen(settings.ray_temp_dir, "work", close)
    await asyncio.to_thread(say_farewell, settings, told.append)
    assert told[-1] == "work is not ready; it goes on at the next start as after a crash"
    gate.set()
    server.close()


async def test_what_a_killed_process_has_left_is_removed(settings: Settings) -> None:
    path = settings.ray_temp_dir / "work.farewell"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    told: list[str] = []
    say_farewell(settings, told.append)
    assert told == []
    assert not path.exists()

    async def close() -> None:
        return

    path.write_text("whatever is there")
    server = await listen(settings.ray_temp_dir, "work", close)
    assert path.stat().st_mode & 0o777 == 0o600
    await asyncio.to_thread(say_farewell, settings, told.append)
    assert told == ["waiting up to 0 s for what runs"]
    server.close()
