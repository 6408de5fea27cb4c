"""A word to those who run on a head before it ends, so that they can bring their work to an end.

Whoever wants it listens on a Unix socket in Ray's folder. `ironcliw down` connects, and waits for
as long as the setting `cluster.stop_seconds` allows until the other side has closed. A connection
through Ray would take seconds to make, and Ray itself tells nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ironcliw.settings import Settings

logger = logging.getLogger(__name__)

_SUFFIX = ".farewell"
_SPARE_SECONDS = 15.0
"""For what comes after the work: processes of steps are ended, states are stored."""


async def listen(
    folder: Path, name: str, close: Callable[[], Awaitable[None]]
) -> asyncio.AbstractServer:
    """Have somebody called when the head is about to end.

    Args:
        folder: Ray's.
        name: Of who listens; an earlier socket of the name is replaced.
        close: Returns when the end may come.
    """

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await close()
        finally:
            writer.close()

    path = folder / f"{name}{_SUFFIX}"
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, path)
    path.chmod(0o600)
    return server


def say_farewell(settings: Settings, report: Callable[[str], None]) -> None:
    """Tell all who listen, and wait until they are ready for the end, or too late."""
    patience = settings.cluster.stop_seconds
    deadline = time.monotonic() + patience + _SPARE_SECONDS
    waiting = []
    for path in sorted(settings.ray_temp_dir.glob(f"*{_SUFFIX}")):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError:  # its process was killed
            connection.close()
            path.unlink(missing_ok=True)
        else:
            waiting.append((path.stem, connection))
    if waiting:
        report(f"waiting up to {patience:g} s for what runs")
    for name, connection in waiting:
        with connection:
            _until_closed(name, connection, deadline, report)


def _until_closed(
    name: str, connection: socket.socket, deadline: float, report: Callable[[str], None]
) -> None:
    connection.settimeout(max(0.1, deadline - time.monotonic()))
    # a process that dies meanwhile needs no more time either
    with contextlib.suppress(ConnectionError):
        try:
            connection.recv(1)
        except TimeoutError:
            report(f"{name} is not ready; it goes on at the next start as after a crash")
