"""The ingress replica: it listens on the public port itself.

Why not Serve's own direct ingress (`RAY_SERVE_ENABLE_DIRECT_INGRESS`), which also lets a replica
listen? Read in Ray 2.60's `serve/_private/replica.py` and `http_util.py`: its socket is bound
without SO_REUSEADDR and a busy port is blocked for good, so that an ingress that died with open
connections could not come back on its port for a minute; a proxy process of 130 MB is started
beside it; its 404, 408, 499 and 503 are plain text, sent around the application; and it reads a
whole body before the application can refuse it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

import httpx
import orjson
import ray
import uvicorn
from ray.serve.handle import DeploymentHandle
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from actors.control_link import ControlLink
from ironcliw import logs
from ironcliw.catalog import Catalog
from ironcliw.errors import RequestError, UnavailableError
from ironcliw.settings import Settings
from serve.cloud_news import CloudNews
from serve.failover_router import FailoverRouter
from serve.failover_variant import FailoverVariant
from serve.gateway import Gateway
from serve.local_room import LocalRoom
from serve.metrics import FailoverMetrics, IngressMetrics
from serve.routes import create_app, direct_routes
from serve.serve_variant import ServeVariant
from serve.service import Service
from serve.variants import Variant

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_DRAIN_SECONDS = 3.0


class Ingress:
    """One replica on the head: HTTP in front, handles to engine replicas behind.

    Args:
        settings: As given to `up`; replicas do not read the environment.
        local: Handle of the engine deployment on the head.
        spot: Handle of the one in the cloud; None without a cloud.
    """

    async def __init__(  # type: ignore[misc]
        self,
        settings: Settings,
        local: DeploymentHandle[Any],
        spot: DeploymentHandle[Any] | None = None,
    ) -> None:
        logs.configure(settings.log)
        self._metrics_client = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._metrics_url = f"http://127.0.0.1:{settings.cluster.metrics_port}/metrics"
        metrics = IngressMetrics()
        variant = _variant(settings, local, spot)
        service = Service(settings, variant, _nodes, self._relay, metrics, ControlLink())
        self._service = service
        self._gateway = Gateway(
            create_app(service),
            settings.serve,
            metrics.on_request,
            service.admit,
            direct_routes(service),
        )
        self._server = uvicorn.Server(server_config(self._gateway))
        self._listener = open_listener(settings.serve.host, settings.serve.port)
        self._tasks = [
            asyncio.create_task(self._server.serve(sockets=[self._listener])),
            asyncio.create_task(service.run()),
        ]

    async def check_health(self) -> None:
        """Called by Serve: raises when the listener or the housekeeping has ended."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"the ingress has stopped: {task!r}")

    async def __del__(self) -> None:
        self._listener.close()
        await self._gateway.drain(_DRAIN_SECONDS)
        self._server.should_exit = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._tasks[0], _DRAIN_SECONDS)
        self._tasks[1].cancel()
        await self._metrics_client.aclose()
        await self._service.close()

    async def _relay(self) -> bytes:
        try:
            response = await self._metrics_client.get(self._metrics_url)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise UnavailableError(f"Ray's metrics agent does not answer: {error}") from error
        return response.content


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose answer to a line that is no HTTP is in our form as well."""

    def send_400_response(self, msg: str) -> None:
        """Answer and close."""
        error = RequestError(f"this is no valid HTTP request: {msg}", code="bad_http")
        body = orjson.dumps(error.body())
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()


def server_config(app: Gateway) -> uvicorn.Config:
    """How uvicorn serves the gateway."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
    )


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket that a successor can open again at once.

    SO_REUSEPORT lets a new ingress start before the old one has drained; `ironcliw up` has made
    sure that the port was free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _variant(
    settings: Settings, local: DeploymentHandle[Any], spot: DeploymentHandle[Any] | None
) -> Variant:
    """Where models run: at home, and in the cloud where there is one."""
    home = ServeVariant("local", local)
    if spot is None:
        return home
    catalog = Catalog.of(settings)
    router = FailoverRouter(
        home,
        ServeVariant("spot", spot, wait_after_loss=0.0),
        catalog,
        LocalRoom(catalog, settings.serve.pinned_models),
        settings.serve.attempt_timeout_seconds,
        observer=FailoverMetrics(),
        why=CloudNews(settings.store_url),
    )
    return FailoverVariant(router)


def _nodes() -> list[dict[str, Any]]:
    rows = []
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        resources = node.get("Resources", {})
        rows.append(
            {
                "id": node["NodeID"],
                "name": node.get("NodeManagerHostname", ""),
                "address": node.get("NodeManagerAddress", ""),
                "alive": node["Alive"],
                "cpus": resources.get("CPU", 0),
                "memory_bytes": int(resources.get("memory", 0)),
                "head": "node:__internal_head__" in resources,
            }
        )
    return rows
