"""A real HTTP server around a fake model, for tests of everything but Ray."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from ironcliw.catalog import Catalog
from ironcliw.settings import Settings
from serve.gateway import Gateway
from serve.host import ModelHost
from serve.ingress import open_listener, server_config
from serve.routes import create_app, direct_routes
from serve.service import Service
from serve.variants import LocalVariant, Variant

MODELS = {
    "fake": {"source": "fake:8", "task": "embedding", "context": 512, "dimensions": 8},
    "slow": {"source": "fake:4?seconds=0.5", "task": "embedding"},
    "broken": {"source": "fake:4?fail=1", "task": "embedding"},
    "writer": {"source": "fake:4", "task": "generation"},
}


class HttpService:
    """One running server.

    Attributes:
        url: Its address.
        service: The state behind it.
        loop: The event loop that it runs in.
        statuses: Status of each request that has ended; 499 for a client that left.
    """

    def __init__(
        self,
        state_dir: Path,
        variant: Variant | None = None,
        models: dict[str, Any] | None = None,
        adapters: dict[str, Any] | None = None,
        workflows: Any = None,
        **serve: Any,
    ) -> None:
        self._workflows = workflows
        self._listener = open_listener("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self.settings = Settings(
            state_dir=state_dir,
            serve={"pinned_models": ["fake"], "port": self.port, **serve},
            models={**MODELS, **(models or {})},
            adapters=adapters or {},
        )
        self.statuses: list[int] = []
        self.url = f"http://127.0.0.1:{self.port}"
        self._variant = variant
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        settings = self.settings
        self.loop = asyncio.get_running_loop()
        self.host = ModelHost(
            Catalog.of(settings), settings.serve, settings.state_dir / "models", "test-node"
        )
        self.service = Service(
            settings, self._variant or LocalVariant(self.host), workflows=self._workflows
        )
        self.gateway = Gateway(
            create_app(self.service),
            settings.serve,
            lambda method, route, status, seconds: self.statuses.append(status),
            self.service.admit,
            direct_routes(self.service),
        )
        self._server = uvicorn.Server(server_config(self.gateway))
        housekeeping = asyncio.create_task(self.service.run())
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.005)
        self._started.set()
        await serving
        housekeeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await housekeeping
        await self.service.close()
        await self.host.close()

    def start(self) -> None:
        """Start and wait until it listens."""
        self._thread.start()
        assert self._started.wait(60), "the test server did not start"

    def stop(self) -> None:
        """Stop and wait until it is gone."""
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive(), "the test server did not stop"


@contextlib.contextmanager
def running(
    state_dir: Path,
    variant: Variant | None = None,
    models: dict[str, Any] | None = None,
    adapters: dict[str, Any] | None = None,
    workflows: Any = None,
    **serve: Any,
) -> Iterator[HttpService]:
    """A server for the length of a `with` block."""
    server = HttpService(state_dir, variant, models, adapters, workflows, **serve)
    server.start()
    try:
        yield server
    finally:
        server.stop()
